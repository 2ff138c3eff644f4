# SPDX-License-Identifier: Apache-2.0
"""Who else comes to the two ports of a raylet: garbage, silence, floods, readers that do not read."""
import random
import re
import select
import socket
import struct
from pathlib import Path

import grpc
import pytest
from conftest import slow, wait_until
from test_jobs import ask
from test_machines import NODES, TOKEN, Machines, counts, leave

HOST = "127.0.0.1"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
PING = b"\0\0\10\6\0\0\0\0\0" + bytes(8)
MIB = 1 << 20


class Port:
    def __init__(self, number):
        self.number = number

    def connect(self, data=b""):
        s = socket.create_connection((HOST, self.number), timeout=20 * slow())
        try:
            s.sendall(data)
        except OSError:
            pass  # it hung up already
        return s


def is_cut(s):
    """Its other end has closed it; what it said first is read."""
    s.setblocking(False)
    try:
        while s.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def all_cut(sockets, timeout=40):
    wait_until(lambda: all(is_cut(s) for s in sockets), timeout * slow(), "all are cut")
    for s in sockets:
        s.close()


def memory(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10


def frame(kind, body, number=0):
    """Of the data port."""
    return (struct.pack("=IBxxxQ", 0x52584644, kind, number) + body).ljust(128, b"\0")


def n_fds(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.fixture
def attacked(cluster):
    """A node that works for a driver elsewhere; its node port, its data port."""
    m = Machines(cluster)
    m.add("a", resources="a:1000000")
    b = m.add("b", resources="b:1000000")
    m.all_see()
    found = b.program.expect(r"^node [0-9a-f]+ \d+ (\d+) (\d+)$")
    b.ports = [Port(int(found[1])), Port(int(found[2]))]
    b.works = m.nodes[0].driver()
    check_work(b)
    yield b
    leave(b.works)
    m.stop()


def check_work(node):
    assert counts(ask(node.works, "needing 20 0 b=1", NODES)) == {node.id: 20}
    ref = ask(node.works, "make 3000000 1 b=1")
    ask(node.works, f"get {ref}", r"sum (\d+)")
    ask(node.works, f"drop {ref}")


def test_garbage_and_silence(attacked):
    seed = random.Random(11)
    before, fds = memory(attacked.pid), n_fds(attacked.pid)
    silent = [attacked.ports[0].connect(PREFACE + SETTINGS) for _ in range(10 if slow() == 1 else 0)]
    idle = [port.connect() for port in attacked.ports for _ in range(200)]
    check_work(attacked)
    bad = [port.connect(seed.choice([b"", PREFACE, PREFACE + SETTINGS]) + seed.randbytes(seed.randrange(200, 5000)))
           for port in attacked.ports for _ in range(50)]
    check_work(attacked)
    all_cut(bad)
    all_cut(idle)
    check_work(attacked)
    assert re.search(r"event=refused .* from=127\.0\.0\.1:\d+ ", attacked.log())
    all_cut(silent)  # no answer to a ping is an end, after two times 10 s
    wait_until(lambda: n_fds(attacked.pid) <= fds, 20 * slow(), "no descriptor is left")
    check_work(attacked)
    assert slow() > 1 or memory(attacked.pid) - before < 100 * MIB


def test_strangers_with_a_token(attacked):
    """What they say instead of a hello is refused, and the log has their address."""
    channel = grpc.insecure_channel(f"{HOST}:{attacked.ports[0].number}", options=[("grpc.enable_http_proxy", 0)])
    session = channel.stream_stream("/ray.c.Node/Session")
    for hello in (b"", b"RAYP", random.Random(5).randbytes(500), b"RAYP" + bytes(60000)):
        with pytest.raises(grpc.RpcError) as caught:
            list(session(iter([hello]), metadata=[("authorization", f"Bearer {TOKEN}")], timeout=20 * slow()))
        assert caught.value.code() != grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError):
        list(session(iter([b""]), metadata=[("authorization", "Bearer wrong")], timeout=20 * slow()))
    channel.close()
    wait_until(lambda: re.search(r"component=peer event=refused .* from=ipv4:127\.0\.0\.1:\d+ ", attacked.log()),
               10 * slow(), "the address is in the log")
    assert re.search(r"component=rpc event=denied peer=ipv4:127\.0\.0\.1:\d+ ", attacked.log())
    check_work(attacked)


def flood(s, data):
    """As long as it is taken; false: the other end has cut it, or takes all."""
    s.setblocking(False)
    for _ in range(64 * MIB // len(data)):
        if not select.select([], [s], [], 0.5)[1]:
            return True
        try:
            s.send(data)
        except OSError:
            return False
    return False


def test_who_asks_much_and_never_reads(attacked):
    before = memory(attacked.pid)
    pings = attacked.ports[0].connect(PREFACE + SETTINGS)
    flood(pings, PING * 1000)
    check_work(attacked)
    pings.close()
    cluster = bytes.fromhex(re.search(r"event=registered .* cluster=([0-9a-f]{56}) ", attacked.log())[1])
    s = attacked.ports[1].connect(frame(1, struct.pack("=III", 1, 999, len(TOKEN)) + cluster) + TOKEN.encode())
    welcome = s.recv(128)
    assert len(welcome) == 128 and welcome[4] == 2, welcome
    assert flood(s, frame(4, bytes(32) + b"\1", number=1) * 100), "questions are read though answers are not"
    check_work(attacked)
    s.close()
    assert slow() > 1 or memory(attacked.pid) - before < 50 * MIB
