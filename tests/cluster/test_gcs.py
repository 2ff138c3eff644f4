# SPDX-License-Identifier: Apache-2.0
"""gcs_server on a real Redis, spoken to in gRPC by another implementation: what it keeps, and what it survives."""
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import grpc
import pytest

from conftest import build_dir, slow, wait_until

TOKEN = "test-token"
NODE = "/ray.rpc.NodeInfoGcsService/"
JOB = "/ray.rpc.JobInfoGcsService/"
KV = "/ray.rpc.InternalKVGcsService/"
LINK = "/ray.c.GcsLink/"


def message(*fields):
    """A protobuf message of (number, value): int, bytes, str."""
    def varint(n):
        out = b""
        while n > 0x7F:
            out += bytes([n & 0x7F | 0x80])
            n >>= 7
        return out + bytes([n])
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def parse(data):
    """{number: [values]} of a message."""
    def varint():
        nonlocal at
        n = shift = 0
        while True:
            byte = data[at]
            at += 1
            n |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return n
    at, fields = 0, {}
    while at < len(data):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            value = varint()
        elif kind == 1:
            value = struct.unpack("<d", data[at:at + 8])[0]
            at += 8
        else:
            n = varint()
            value = data[at:at + n]
            at += n
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def first(data, number, default=b""):
    return parse(data).get(number, [default])[0]


def read_line(pipe):
    """What is said there first; nothing if nothing is within the time."""
    with pipe:
        return pipe.readline() if select.select([pipe], [], [], 30 * slow())[0] else b"(nothing)"


# They die with us. A function run in the child would do, but needs a fork, in which gRPC's threads crash now and then.
DIES_WITH_US = ["/usr/bin/setpriv", "--pdeathsig", "KILL"]


class Gcs:
    """A gcs_server, a redis-server and a way to call them; each may be killed and started again."""

    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="ray-gcs-", dir="/tmp"))
        self.redis_path = self.dir / "redis.sock"
        self.server = self.redis = None
        self.processes = []  # all that were started
        self.port = 0
        self.n_logs = 0
        self.channels = []
        self.simulated = []  # nodes
        self.default = None  # a channel; one for each start, since the first call on one that broke may fail

    def start_redis(self):
        self.redis = subprocess.Popen(
            [*DIES_WITH_US, "redis-server", "--port", "0", "--unixsocket", self.redis_path, "--dir", self.dir, "--save", "",
             "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.DEVNULL)
        self.processes.append(self.redis)

    def spawn(self, *arguments, redis=True):
        """A gcs_server; (process, the pipe it says on that it is ready)."""
        ready, writer = os.pipe()
        self.n_logs += 1
        store = [f"--redis={self.redis_path}"] if redis else []
        process = subprocess.Popen(
            [*DIES_WITH_US, build_dir() / "bin/gcs_server", f"--address=127.0.0.1:{self.port}", f"--ready-fd={writer}", *store, *arguments],
            pass_fds=[writer], env=dict(os.environ, RAY_AUTH_TOKEN=TOKEN),
            stderr=open(self.dir / f"gcs-{self.n_logs}.log", "wb"))
        os.close(writer)
        self.processes.append(process)
        return process, os.fdopen(ready, "rb")

    def start(self, *arguments, redis=True):
        self.server, ready = self.spawn(*arguments, redis=redis)
        line = read_line(ready).split()
        assert line[:1] == [b"ready"], self.log()
        self.port = int(line[1])
        self.default = self.channel()
        self.cluster, self.incarnation = line[2].decode(), int(line[3])
        return self

    def log(self, n=None):
        return (self.dir / f"gcs-{n or self.n_logs}.log").read_text()

    def kill(self, process):
        process.kill()
        process.wait()

    def channel(self):
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options=[
            ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)])
        self.channels.append(channel)
        return channel

    def call(self, method, request=b"", timeout=20, metadata=(("authorization", f"Bearer {TOKEN}"),), wait=True,
             channel=None):
        if channel is None:
            channel = self.default
        return channel.unary_unary(method)(request, timeout=timeout * slow(), metadata=metadata, wait_for_ready=wait)

    def error(self, *args, **options):
        with pytest.raises(grpc.RpcError) as caught:
            self.call(*args, **options)
        return caught.value.code(), caught.value.details()

    # what the tests ask

    def next_job(self, **options):
        return first(self.call(JOB + "GetNextJobID", **options), 2, 0)

    def put(self, key, value, ns="", overwrite=1, **options):
        return first(self.call(KV + "InternalKVPut", message((1, key), (2, value), (3, overwrite), (4, ns)), **options),
                     2, 0)

    def get(self, key, ns="", **options):
        reply = self.call(KV + "InternalKVGet", message((1, key), (2, ns)), **options)
        return None if first(first(reply, 1), 1, 0) == 17 else first(reply, 2)

    def register(self, number, **options):
        info = message((1, bytes([number] * 28)), (2, "10.0.0.1"), (5, 1000 + number), (12, f"node{number}"),
                       (23, 5), (11, message((1, "CPU")) + b"\x11" + struct.pack("<d", 4.0)))
        return self.call(NODE + "RegisterNode", message((1, info)), **options)

    def nodes(self):
        """{number: is it alive}"""
        reply = self.call(NODE + "GetAllNodeInfo")
        return {first(n, 1)[0]: first(n, 7, 0) == 0 for n in parse(reply).get(2, [])}

    def close(self):
        for node in self.simulated:
            node.stopped.set()
        for channel in self.channels:
            channel.close()
        for node in self.simulated:
            node.stop()
        for process in self.processes:
            if process.poll() is None:
                if process.args[0] == "redis-server":
                    self.kill(process)
                    continue
                process.terminate()
                assert process.wait(30 * slow()) == 0, self.log()  # the leak checker is content, too
        logs = "".join(f.read_text(errors="replace") for f in self.dir.glob("gcs-*.log"))
        shutil.rmtree(self.dir)
        for word in ("level=broken", "Sanitizer", "runtime error"):
            assert word not in logs, logs


class Node:
    """A simulated node: registers, then calls NodeSync again and again as a raylet does."""

    def __init__(self, gcs, mark, start=True):
        self.gcs, self.id = gcs, bytes([mark] * 28)
        self.number = first(gcs.register(mark), 100, 0)
        self.report = self.incarnation = self.version = self.n_calls = 0
        self.cpus = 40000
        self.views = {}  # number: (is it alive, available CPUs in 1/10000, death)
        self.death = None
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.live)
        self.channel = gcs.channel()
        gcs.simulated.append(self)
        if start:
            self.thread.start()

    def ask(self, **options):
        self.report += 1
        cpu = message((1, "CPU"), (2, 40000), (3, self.cpus))
        return self.gcs.call(LINK + "NodeSync", message(
            (1, message((1, self.id), (14, cpu))), (2, self.report), (3, self.incarnation), (4, self.version)),
            channel=self.channel, **options)

    def take(self, reply):
        m = parse(reply)
        if 5 in m:
            self.death = m[5][0].decode()
            return
        for view in map(parse, m.get(3, [])):
            resources = {first(r, 1): first(r, 3, 0) for r in view.get(14, [])}
            self.views[view[2][0]] = (4 not in view, resources.get(b"CPU"), view.get(12, [b""])[0].decode())
        if 6 not in m:
            self.incarnation, self.version = m[1][0], first(reply, 2, 0)
        self.n_calls += 1

    def live(self):
        while not self.stopped.is_set() and self.death is None:
            try:
                self.take(self.ask(timeout=30, wait=True))
            except (grpc.RpcError, ValueError):  # the GCS was killed, or the test has ended
                self.stopped.wait(0.05)

    def stop(self):
        self.stopped.set()
        if self.thread.is_alive():
            self.thread.join()

    def sees(self, other):
        return self.views.get(other.number, (None, None, None))


def redis_cli(gcs, *words):
    return subprocess.run(["redis-cli", "-s", gcs.redis_path, *words], stdout=subprocess.PIPE, check=False).stdout


@pytest.fixture
def gcs():
    g = Gcs()
    yield g
    g.close()


@pytest.fixture
def served(gcs):
    gcs.start_redis()
    return gcs.start()


# --- what it keeps ---

def test_nodes(served):
    assert len(first(served.call(NODE + "GetClusterId"), 2)) == 28
    served.register(1)
    served.register(2)
    served.register(1)  # its first answer may have been lost
    assert served.nodes() == {1: True, 2: True}
    alive = served.call(NODE + "CheckAlive", message((1, "10.0.0.1:1001"), (1, "10.0.0.1:9"), (1, b"\2" * 28), (1, b"\3" * 28)))
    assert first(alive, 3) == b"\1\0\1\0"
    served.call(NODE + "UnregisterNode", message((1, bytes([1] * 28))))
    served.call(NODE + "UnregisterNode", message((1, bytes([1] * 28))))
    assert served.nodes() == {1: False, 2: True}
    code, text = served.error(NODE + "RegisterNode", message((1, message((1, bytes([1] * 28)), (2, "10.0.0.1")))))
    assert code == grpc.StatusCode.ALREADY_EXISTS and "declared dead" in text
    node = [n for n in parse(served.call(NODE + "GetAllNodeInfo"))[2] if first(n, 1)[0] == 2][0]
    assert first(node, 12) == b"node2" and first(first(node, 11), 2) == 4.0


def test_jobs(served):
    assert served.next_job() == 1
    reply = served.call(JOB + "AddJob", message((1, message((5, 77), (9, "wordcount")))))
    assert first(reply, 100) == b"\x02\0\0\0"
    served.call(JOB + "AddJob", message((1, message((1, b"\x09\0\0\0"), (9, "of an older head")))))
    assert served.next_job() == 10
    served.call(JOB + "MarkJobFinished", message((1, b"\x02\0\0\0")))
    jobs = {first(j, 1)[0]: (first(j, 2, 0), first(j, 9)) for j in parse(served.call(JOB + "GetAllJobInfo"))[2]}
    assert jobs == {2: (1, b"wordcount"), 9: (0, b"of an older head")}
    assert served.error(JOB + "MarkJobFinished", message((1, b"\x63\0\0\0")))[0] == grpc.StatusCode.NOT_FOUND
    blocks = [served.call(LINK + "TakeProcesses", message((1, 2), (2, 256))) for _ in range(3)]
    assert [first(b, 1) for b in blocks] == [1, 257, 513]


def test_keys_and_values(served):
    odd = bytes(range(256))
    assert served.put("a", "1") == 1
    assert served.put("a", "2") == 0
    assert served.put("a", "3", overwrite=0) == 0
    assert served.get("a") == b"2"
    assert served.get("a", ns="n") is None
    served.put(odd, odd, ns=":%@")
    served.put("", "", ns="empty")
    assert served.get(odd, ns=":%@") == odd
    assert served.get("", ns="empty") == b""
    for key in ("fun:1", "fun:2", "fun:10", "other"):
        served.put(key, key, ns="n")
    keys = parse(served.call(KV + "InternalKVKeys", message((1, "fun:1"), (2, "n"))))[2]
    assert keys == [b"fun:1", b"fun:10"]
    assert parse(served.call(KV + "InternalKVKeys", message((2, ":%@"))))[2] == [odd]
    many = served.call(KV + "InternalKVMultiGet", message((1, "fun:2"), (1, "none"), (1, "other"), (2, "n")))
    assert [(first(e, 1), first(e, 2)) for e in parse(many)[2]] == [(b"fun:2", b"fun:2"), (b"other", b"other")]
    assert first(served.call(KV + "InternalKVExists", message((1, "fun:2"), (2, "n"))), 2, 0) == 1
    assert first(served.call(KV + "InternalKVDel", message((1, "fun:"), (2, "n"), (3, 1))), 2, 0) == 3
    assert first(served.call(KV + "InternalKVDel", message((1, "fun:"), (2, "n"))), 2, 0) == 0
    assert first(served.call(KV + "InternalKVExists", message((1, "other"), (2, "n"))), 2, 0) == 1


# --- who is let in ---

def test_every_call_wants_the_token(served):
    methods = [NODE + "GetClusterId", KV + "InternalKVGet", LINK + "Hello", "/grpc.health.v1.Health/Check", "/no.Such/Method"]
    right = ("authorization", f"Bearer {TOKEN}")
    for metadata in ([], [("authorization", "Bearer x")], [("authorization", f"bearer {TOKEN}")],
                     [("authorization", TOKEN)], [("authorization", f"Bearer {TOKEN}x")], [right, right],
                     [("authorization", "Bearer ")], [("x-ray-authorization", f"Bearer {TOKEN}")]):
        for method in methods:
            code, text = served.error(method, metadata=metadata)
            assert code == grpc.StatusCode.UNAUTHENTICATED and "RAY_AUTH_TOKEN" in text and TOKEN not in text
    assert served.error("/no.Such/Method")[0] == grpc.StatusCode.UNIMPLEMENTED
    assert served.call("/grpc.health.v1.Health/Check", metadata=[right]) == message((1, 1))
    assert TOKEN not in served.log()


def test_two_clusters_and_versions_do_not_mix(served):
    right = ("authorization", f"Bearer {TOKEN}")
    served.call(NODE + "GetClusterId", metadata=[right, ("ray_cluster_id", served.cluster)])
    assert served.error(NODE + "GetClusterId",
                        metadata=[right, ("ray_cluster_id", "00" * 28)])[0] == grpc.StatusCode.UNAUTHENTICATED
    hello = served.call(LINK + "Hello", message((1, 1), (3, bytes.fromhex(served.cluster))))
    assert first(hello, 3).hex() == served.cluster and first(hello, 4) == served.incarnation
    assert served.error(LINK + "Hello", message((1, 1), (3, b"\0" * 28)))[0] == grpc.StatusCode.UNAUTHENTICATED
    code, text = served.error(LINK + "Hello", message((1, 7), (2, "of tomorrow")))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "of tomorrow" in text


def test_requests_that_are_none(served):
    for method in (NODE + "RegisterNode", NODE + "UnregisterNode", JOB + "AddJob", JOB + "MarkJobFinished"):
        assert served.error(method)[0] == grpc.StatusCode.INVALID_ARGUMENT
    for service, names in ((NODE, ("RegisterNode", "CheckAlive")), (KV, ("InternalKVGet", "InternalKVPut", "InternalKVKeys")),
                           (LINK, ("Hello", "TakeProcesses"))):
        for name in names:
            assert served.error(service + name, b"\xff" * 40)[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert served.error(KV + "InternalKVPut", message((1, "k" * 2000), (2, "v")))[0] == grpc.StatusCode.INVALID_ARGUMENT
    code, text = served.error(KV + "InternalKVPut", message((1, "k"), (2, b"v" * (1 << 20) + b"v"), (3, 1)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "1048576" in text
    assert served.error(KV + "InternalKVPut",
                        message((1, "k"), (2, b"v" * (9 << 20))))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.nodes() == {}


# --- what it survives ---

def test_whatever_is_killed_rows_are_back_and_no_number_is_given_twice(served):
    numbers, stop = [], threading.Event()
    seed = random.Random(3)

    def ask():
        channel = served.channel()
        while not stop.is_set():
            try:
                numbers.append(served.next_job(channel=channel, timeout=1))
            except grpc.RpcError:
                pass
    asker = threading.Thread(target=ask)
    asker.start()
    incarnation = served.incarnation
    for round_ in range(1, 7):
        n = len(numbers)
        wait_until(lambda: len(numbers) > n + seed.randrange(20), 30 * slow())  # pylint: disable=cell-var-from-loop
        Node(served, round_)
        served.put(f"key{round_}", f"{round_}")
        if round_ % 3 != 1:
            served.kill(served.redis)
        if round_ % 3 != 2:
            served.kill(served.server)
        if served.redis.poll() is not None:
            served.start_redis()
        if served.server.poll() is not None:
            served.start()
            assert served.incarnation == incarnation + 1
            incarnation += 1
        assert served.nodes() == {i: True for i in range(1, round_ + 1)}
        assert [served.get(f"key{i}") for i in range(1, round_ + 1)] == [b"%d" % i for i in range(1, round_ + 1)]
    stop.set()
    asker.join()
    assert len(numbers) > 6 and len(set(numbers)) == len(numbers)


def test_redis_away(served):
    served.put("a", "1")
    served.kill(served.redis)
    assert served.get("a") == b"1"
    code, _ = served.error(KV + "InternalKVPut", message((1, "a"), (2, "2"), (3, 1)), timeout=0.2)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert served.get("a") == b"1"
    wait_until(lambda: str(served.redis_path).encode() in first(served.call(LINK + "Hello", message((1, 1))), 6), 10 * slow())
    future = served.default.unary_unary(JOB + "GetNextJobID").future(
        b"", timeout=60, metadata=[("authorization", f"Bearer {TOKEN}")])
    served.start_redis()
    assert first(future.result(), 2) == 1
    assert served.get("a") == b"2"  # held, and done when it was back


def test_what_waits_for_redis_is_bounded(gcs):
    gcs.start_redis()
    gcs.start("--held-bytes=100000")
    gcs.kill(gcs.redis)
    calls = [gcs.channel().unary_unary(KV + "InternalKVPut").future(
        message((1, f"k{i}"), (2, b"v" * 20000), (3, 1)), timeout=60, wait_for_ready=True,
        metadata=[("authorization", f"Bearer {TOKEN}")]) for i in range(10)]
    wait_until(lambda: sum(c.done() for c in calls) >= 6, 20 * slow())
    refused = [c for c in calls if c.done()]
    for c in refused:
        assert c.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and str(gcs.redis_path) in c.details()
    gcs.start_redis()
    assert all(c.code() == grpc.StatusCode.OK for c in calls if c not in refused)


def test_an_older_file_while_the_gcs_was_dead(served):
    """Nobody but the nodes knows the numbers then: they say so in their first message."""
    served.next_job()
    served.kill(served.server)
    served.kill(served.redis)
    shutil.copytree(served.dir / "appendonlydir", served.dir / "saved")
    served.start_redis()
    served.start()
    for expected in (2, 3, 4):
        assert served.next_job() == expected
    served.call(LINK + "TakeProcesses", message((1, 4), (2, 256)))
    served.kill(served.server)
    served.kill(served.redis)
    shutil.rmtree(served.dir / "appendonlydir")
    (served.dir / "saved").rename(served.dir / "appendonlydir")
    served.start_redis()
    served.start()
    served.call(LINK + "Hello", message((1, 1), (6, message((1, 3), (2, 5))), (6, message((1, 4), (2, 256)))))
    assert served.next_job() == 5
    assert first(served.call(LINK + "TakeProcesses", message((1, 4), (2, 1))), 1) == 257


def test_a_second_gcs_takes_over(served):
    served.put("a", "1")
    former, former_log = served.server, served.n_logs
    served.port = 0
    served.start()
    assert former.wait(20 * slow()) == 3  # nobody should start it again
    assert "taken this cluster over" in served.log(former_log)
    assert served.get("a") == b"1"


def test_a_client_that_does_not_read(served):
    """Stopped with answers on their way: others are served, and the server's memory stays bounded."""
    served.put("big", b"v" * (1 << 20))
    client = subprocess.Popen(["/usr/bin/python3", "-c", f"""
import grpc, sys
channel = grpc.insecure_channel("127.0.0.1:{served.port}", options=[("grpc.enable_http_proxy", 0)])
call = channel.unary_unary("{KV}InternalKVGet")
ask = lambda: call.future({message((1, "big"))!r}, metadata=[("authorization", "Bearer {TOKEN}")])
ask().result()
print("connected", flush=True)
sys.stdin.readline()
calls = [ask() for _ in range(900)]
print("asked", flush=True)
sys.stdin.readline()
"""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert client.stdout.readline() == b"connected\n"
        client.stdin.write(b"\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"asked\n"
        client.send_signal(signal.SIGSTOP)
        for i in range(50):
            served.put("small", str(i))
            assert served.get("small") == str(i).encode()
        rss = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{served.server.pid}/status").read_text())[1])
        if slow() == 1:
            assert rss < 1100 << 10  # 900 answers of a MiB, at most
        client.kill()
    finally:
        client.kill()
        client.wait()
    assert served.get("small") == b"49"


def test_garbage_on_the_port(served):
    seed = random.Random(7)
    for i in range(30):
        with socket.create_connection(("127.0.0.1", served.port)) as s:
            head = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if i % 2 else b""
            try:
                s.sendall(head + seed.randbytes(seed.randrange(1, 5000)))
            except OSError:
                pass  # it hung up already
    assert served.nodes() == {}


def test_sigterm_ends_it_with_calls_open(served):
    node = Node(served, 1, start=False)
    question = served.default.unary_unary(LINK + "AskNode").future(
        message((1, node.id)), timeout=60, metadata=[("authorization", f"Bearer {TOKEN}")])
    wait_until(lambda: 7 in parse(node.ask()), 20 * slow())
    served.kill(served.redis)
    calls = [served.default.unary_unary(JOB + "GetNextJobID").future(  # before the next call there
        b"", timeout=60, metadata=[("authorization", f"Bearer {TOKEN}")]) for _ in range(5)]
    wait_until(lambda: "away" in served.log(), 10 * slow())
    served.get("a")
    served.server.send_signal(signal.SIGTERM)
    assert served.server.wait(30 * slow()) == 0, served.log()
    for c in [question, *calls]:
        assert c.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


# --- the life of nodes ---

def alive(*nodes):
    """Each sees all others alive."""
    return all(n.death is None and n.sees(o)[0] for n in nodes for o in nodes if n is not o)


def test_nodes_have_numbers_that_are_located(served):
    a, b = Node(served, 1, start=False), Node(served, 2, start=False)
    assert a.number > 0 and b.number > 0 and a.number != b.number
    assert first(served.register(1), 100) == a.number  # again: the same

    def take(node, n):
        return first(served.call(LINK + "TakeProcesses", message((2, n), (3, node.id))), 1)

    def locate(process):
        reply = served.call(LINK + "Locate", message((1, process)))
        return first(reply, 1)[0], first(reply, 2)
    blocks = [(a, take(a, 256)), (b, take(b, 65536)), (a, take(a, 65536)), (b, take(b, 1))]
    nobodys = LINK + "Locate", message((1, blocks[-1][1] + 256 + 2000))
    assert served.error(*nobodys)[0] == grpc.StatusCode.NOT_FOUND
    served.kill(served.server)
    served.start()
    code, text = served.error(*nobodys)  # its row may be lost, and its node on the way
    assert code == grpc.StatusCode.UNAVAILABLE and "not each node has said" in text
    blocks.append((b, take(b, 256)))
    for i, (node, at) in enumerate(blocks):
        assert locate(at) == (node.id[0], node.number)
        assert i == 0 or locate(at - 1) == (blocks[i - 1][0].id[0], blocks[i - 1][0].number)
        assert locate(node.number) == (node.id[0], node.number)
    assert blocks[-1][1] == max(at for _, at in blocks)
    at = blocks[-1][1] + 1000

    def hello(node, *held):
        return LINK + "Hello", message((1, 1), (4, node.id), *((7, message((1, first), (2, n))) for first, n in held))
    served.call(*hello(a, (a.number, 1), (blocks[0][1], 256), (at, 256)))  # the last one's row was lost
    assert locate(at + 255)[0] == a.id[0]
    for held in ((at, 256), (at + 255, 256), (at - 255, 256)):
        code, text = served.error(*hello(b, held))
        assert code == grpc.StatusCode.ALREADY_EXISTS and "given to another" in text
    for held in ((0, 1), (1 << 28, 1), ((1 << 28) - 1, 2), (at, 0), (at, 65537)):
        assert served.error(*hello(a, held))[0] == grpc.StatusCode.INVALID_ARGUMENT
    blocks.append((a, at))
    assert served.error(LINK + "Locate", message((1, 1 << 28)))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert served.error(LINK + "TakeProcesses", message((2, 1), (3, bytes(28))))[0] == grpc.StatusCode.NOT_FOUND
    assert served.error(LINK + "TakeProcesses", message((2, 1)))[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_nodes_hear_of_each_other(served):
    a, b = Node(served, 1), Node(served, 2)
    wait_until(lambda: alive(a, b), 10 * slow())
    assert a.sees(b) == (True, 40000, "")
    b.cpus = 5000
    wait_until(lambda: a.sees(b)[1] == 5000, 10 * slow())
    c = Node(served, 3)
    wait_until(lambda: alive(a, b, c), 10 * slow())
    b.stop()
    served.call(NODE + "UnregisterNode", message((1, b.id)))
    wait_until(lambda: a.sees(b) == (False, None, "it said good-bye"), 10 * slow())
    assert a.number not in a.views  # nobody is told of himself
    d = Node(served, 4)
    wait_until(lambda: alive(a, c, d), 10 * slow())
    assert b.number not in d.views  # a new node has nothing to do with the dead
    assert first(b.ask(), 5).decode() == "it said good-bye"
    assert first(served.call(LINK + "Locate", message((1, b.number))), 3).decode() == "it said good-bye"


def test_a_question_is_answered_by_a_node_that_nobody_can_dial(served):
    """It goes to the node with the answer to its NodeSync, and comes back by a call of the node's own."""
    a, other = Node(served, 1, start=False), Node(served, 2, start=False)

    def ask(**options):
        return served.default.unary_unary(LINK + "AskNode").future(
            message((1, a.id), (2, "/a/method"), (3, b"ask")), timeout=60 * slow(),
            metadata=[("authorization", f"Bearer {TOKEN}")], **options)

    def told():
        """What the node hears next."""
        questions = None
        while not questions:
            questions = [parse(q) for q in parse(a.ask()).get(7, [])]
        assert [(q[2], q[3]) for q in questions] == [([b"/a/method"], [b"ask"])] * len(questions)
        return [q[1][0] for q in questions]

    def answer(number, node, *what):
        served.call(LINK + "Answer", message((1, number), (2, node.id), *what))
    asked = ask()
    number, = told()
    assert 7 not in parse(a.ask())  # not again
    answer(number, other, (3, b"not that one's"))
    answer(number + 1, a, (3, b"not to that one"))
    answer(number, a, (3, b"the answer"))
    assert asked.result() == b"the answer"
    answer(number, a, (3, b"too late"))
    asked = ask()
    answer(*told(), a, (4, "it does not know"))
    assert (asked.code(), asked.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "it does not know")
    many, numbers = [ask() for _ in range(513)], []
    while len(numbers) < 512:  # some of them at once
        numbers += told()
    refused = wait_until(lambda: [f for f in many if f.done()], 20 * slow())
    assert [f.code() for f in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert "512 questions to nodes are open already" in refused[0].details()
    for number in numbers:
        answer(number, a, (3, str(number)))
    assert sorted(int(f.result()) for f in many if f not in refused) == sorted(numbers) and len(set(numbers)) == 512
    ask().cancel()  # nothing is kept for it
    asked = ask()
    while not asked.done():
        for question in parse(a.ask()).get(7, []):
            answer(first(question, 1), a, (3, b"still there"))
    assert asked.result() == b"still there"
    ask_node = LINK + "AskNode"
    assert served.error(ask_node, message((1, b"?" * 28)))[0] == grpc.StatusCode.NOT_FOUND
    assert served.error(ask_node, message((1, b"short")))[0] == grpc.StatusCode.NOT_FOUND
    code, text = served.error(ask_node, message((1, a.id), (2, "m"), (3, b"?" * 1024)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "has at most 1024 bytes, this one 1025" in text
    asked = ask()
    told()
    served.call(NODE + "UnregisterNode", message((1, a.id)))
    assert asked.exception() and "it said good-bye" in asked.details()
    assert "the node is dead: it said good-bye" in served.error(ask_node, message((1, a.id)))[1]


def test_a_call_without_news_is_held(served):
    a, began = Node(served, 1), time.monotonic()
    wait_until(lambda: a.n_calls >= 3, 20 * slow())
    assert time.monotonic() - began > 2.5  # three times a second


def test_news_of_many_nodes_come_in_bounded_replies(served):
    """Each view is as large as its strings may be, and the replies stay below a bound."""
    calls = []
    for i in range(1, 250):
        info = message((1, bytes([i] * 28)), (2, "a" * 63), (8, "h" * 63), (12, "n" * 63), (23, 5),
                       *((11, message((1, f"resource-{i}-{k}")) + b"\x11" + struct.pack("<d", 4.0)) for k in range(10)))
        calls.append(served.default.unary_unary(NODE + "RegisterNode").future(
            message((1, info)), timeout=60, metadata=[("authorization", f"Bearer {TOKEN}")]))
    numbers = {first(c.result(), 100) for c in calls}
    assert len(numbers) == 249
    a, sizes = Node(served, 250, start=False), []
    while numbers - set(a.views):
        reply = a.ask()
        sizes.append(len(reply))
        more = first(reply, 4, 0)
        a.take(reply)
        assert more or not numbers - set(a.views)
    assert len(sizes) > 1 and max(sizes) < 70000


def test_a_silent_node_is_dead_for_good(served):
    a, b = Node(served, 1), Node(served, 2)
    reply = served.call(JOB + "AddJob", message((1, message((9, "there"), (100, b.number)))))
    served.call(JOB + "AddJob", message((1, message((9, "here"), (100, a.number)))))
    wait_until(lambda: alive(a, b), 10 * slow())
    b.stop()
    wait_until(lambda: a.sees(b)[0] is False, 20 * slow())
    assert "said nothing for 6 s" in a.sees(b)[2]
    assert served.nodes() == {1: True, 2: False}
    assert "said nothing for 6 s" in first(b.ask(), 5).decode()
    code, text = served.error(NODE + "RegisterNode", message((1, message((1, b.id), (2, "10.0.0.1")))))
    assert code == grpc.StatusCode.ALREADY_EXISTS and "said nothing" in text

    def ended():
        return {first(j, 9).decode(): first(j, 2, 0) for j in parse(served.call(JOB + "GetAllJobInfo"))[2]}
    wait_until(lambda: ended() == {"there": 1, "here": 0}, 10 * slow())
    assert first(reply, 100) == b"\x01\0\0\0"
    served.kill(served.server)  # its death is in Redis
    served.start()
    assert served.nodes() == {1: True, 2: False}
    assert "said nothing for 6 s" in first(b.ask(), 5).decode()


def test_a_gcs_that_was_away_kills_no_node(served):
    """Killed and started again, then stopped for longer than the silence that means death."""
    nodes = [Node(served, i) for i in (1, 2, 3)]
    wait_until(lambda: alive(*nodes), 10 * slow())
    dead = Node(served, 9)
    dead.stop()
    for _ in range(2):
        served.kill(served.server)
        served.start()
    wait_until(lambda: all(n.incarnation == served.incarnation for n in nodes), 20 * slow())
    wait_until(lambda: all(n.sees(dead)[0] is False for n in nodes), 20 * slow())  # silence counts from its start
    served.server.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        served.server.wait(10)
    served.server.send_signal(signal.SIGCONT)
    n = [node.n_calls for node in nodes]
    wait_until(lambda: all(node.n_calls > k + 8 for node, k in zip(nodes, n)), 30 * slow())  # eight seconds of life
    assert alive(*nodes)
    assert served.nodes() == {1: True, 2: True, 3: True, 9: False}


def test_a_node_whose_row_was_lost_registers_again_with_its_number(served):
    a = Node(served, 1, start=False)
    served.kill(served.server)
    redis_cli(served, "DEL", *(f"RAYdefault@{table}" for table in ("NODE", "PROCESS", "COUNTER")))
    served.start()
    assert first(a.ask(), 6) == 1
    info = message((1, a.id), (2, "10.0.0.1"), (5, 1001), (23, 5), (102, a.number + 1000))
    assert first(served.call(NODE + "RegisterNode", message((1, info))), 100) == a.number + 1000
    b = Node(served, 2, start=False)
    assert b.number == a.number + 1001
    info = message((1, bytes([3] * 28)), (2, "10.0.0.1"), (5, 1003), (23, 5), (102, b.number))
    code, text = served.error(NODE + "RegisterNode", message((1, info)))
    assert code == grpc.StatusCode.ALREADY_EXISTS and "given to another" in text


def test_dead_nodes_are_forgotten(gcs):
    """All but the last ones; their numbers are never those of a living process, and they never come back."""
    gcs.start_redis()
    gcs.start("--dead-nodes=1")
    a = Node(gcs, 1)
    dead = [Node(gcs, mark, start=False) for mark in (2, 3, 4)]
    blocks = [first(gcs.call(LINK + "TakeProcesses", message((2, 256), (3, node.id))), 1) for node in dead]
    wait_until(lambda: alive(a) and all(a.sees(node)[0] for node in dead), 10 * slow())
    for node in dead:
        gcs.call(NODE + "UnregisterNode", message((1, node.id)))
    wait_until(lambda: gcs.nodes() == {1: True, 4: False}, 20 * slow())
    assert all(a.sees(node)[0] is False for node in dead)  # it was told before
    wait_until(lambda: len(redis_cli(gcs, "HKEYS", "RAYdefault@PROCESS").split()) == 3, 10 * slow())
    for at in (dead[0].number, blocks[0], blocks[1] + 255):
        assert "forgotten" in first(gcs.call(LINK + "Locate", message((1, at))), 3).decode()
    assert "good-bye" in first(gcs.call(LINK + "Locate", message((1, blocks[2]))), 3).decode()
    assert gcs.error(LINK + "Locate", message((1, blocks[2] + 256)))[0] == grpc.StatusCode.NOT_FOUND
    assert first(dead[0].ask(), 6) == 1
    info = message((1, dead[0].id), (2, "10.0.0.1"), (5, 1002), (23, 5), (102, dead[0].number))
    code, text = gcs.error(NODE + "RegisterNode", message((1, info)))
    assert code == grpc.StatusCode.ALREADY_EXISTS and "forgotten" in text
    gcs.kill(gcs.server)
    gcs.start("--dead-nodes=0")
    wait_until(lambda: gcs.nodes() == {1: True}, 20 * slow())


def test_a_death_is_told_when_redis_has_it(served):
    a, b = Node(served, 1), Node(served, 2)
    wait_until(lambda: alive(a, b), 10 * slow())
    served.kill(served.redis)
    b.stop()
    with pytest.raises(grpc.RpcError):  # not as long as it could be forgotten
        served.call(NODE + "UnregisterNode", message((1, b.id)), timeout=0.5)
    n = a.n_calls
    wait_until(lambda: a.n_calls > n + 2, 20 * slow())
    assert a.sees(b)[0] is True
    served.start_redis()
    wait_until(lambda: a.sees(b)[0] is False, 30 * slow())


# --- starting ---

def test_it_waits_for_a_redis_that_is_not_there_yet(gcs):
    gcs.server, ready = gcs.spawn()
    wait_until(lambda: "event=away" in gcs.log(), 10 * slow())
    gcs.start_redis()
    assert read_line(ready).startswith(b"ready ")


def test_nothing_is_served_before_all_rows_are_loaded(served):
    """INV-4"""
    for i in range(1, 20):
        served.register(i)
    served.kill(served.server)
    served.redis.send_signal(signal.SIGSTOP)
    served.server, ready = served.spawn()
    channel = served.channel()
    code, _ = served.error(NODE + "GetAllNodeInfo", timeout=0.3, channel=channel)
    assert code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    future = channel.unary_unary(NODE + "GetAllNodeInfo").future(
        b"", timeout=60, wait_for_ready=True, metadata=[("authorization", f"Bearer {TOKEN}")])
    served.redis.send_signal(signal.SIGCONT)
    assert read_line(ready).startswith(b"ready ")
    assert len(parse(future.result())[2]) == 19


def refused(gcs, *arguments, redis=True):
    gcs.server, ready = gcs.spawn(*arguments, redis=redis)
    assert read_line(ready) == b""
    assert gcs.server.wait(20 * slow()) in (1, 2)
    return gcs.log()


def test_it_says_why_it_does_not_start(gcs):
    gcs.start_redis()
    gcs.start()
    assert "is the port taken" in refused(gcs, "--memory", redis=False)
    gcs.port = 0
    assert "either --redis" in refused(gcs, redis=False)
    assert "either --redis" in refused(gcs, "--memory")
    assert "HOST:PORT" in refused(gcs, "--redis=nonsense", redis=False)
    assert "number is wanted" in refused(gcs, "--held-bytes=many")
    assert "letters, digits" in refused(gcs, "--namespace=a b")
    subprocess.run(["redis-cli", "-s", gcs.redis_path, "SET", "RAYother@NODE", "1"], check=True, stdout=subprocess.DEVNULL)
    assert "no table of ours" in refused(gcs, "--namespace=other")


def test_no_token_no_server(gcs):
    environment = {"PATH": os.environ["PATH"], "HOME": str(gcs.dir)}
    ended = subprocess.run([build_dir() / "bin/gcs_server", "--memory", "--address=127.0.0.1:0"], env=environment,
                           stderr=subprocess.PIPE, timeout=20 * slow(), check=False)
    assert ended.returncode == 2 and b"RAY_AUTH_TOKEN" in ended.stderr


def test_in_memory(gcs):
    gcs.start("--memory", redis=False)
    assert gcs.next_job() == 1
    gcs.put("a", "1")
    assert gcs.get("a") == b"1"
