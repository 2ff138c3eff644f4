# SPDX-License-Identifier: Apache-2.0
"""A raylet whose driver is this test: foreign and broken bytes end it cleanly and with a sentence."""
import os
import pathlib
import re
import socket
import struct
import subprocess

import pytest
from conftest import build_dir

HELLO, WELCOME, ERROR, GONE = 1, 2, 3, None
HEADER = struct.Struct("<IBBHII")
WIRE = pathlib.Path(__file__).parents[2] / "lib/net/wire.h"
PROTOCOL, DRIVER = int(re.search(r"define WIRE_PROTOCOL +(\d+)", WIRE.read_text())[1]), 1


def frame(kind, body=b"", length=None, flags=0):
    return HEADER.pack(16 + len(body) if length is None else length, kind, flags, 0, 0, 0) + body


def hello(protocol=PROTOCOL, kind=DRIVER):
    return frame(HELLO, struct.pack("<IIQiI32s", protocol, kind, 0, os.getpid(), 0, b""))


class Link:
    def __init__(self, cluster, **options):
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(10)
        exe = os.open(cluster.program("hold"), os.O_RDONLY)
        self.process = cluster.start(
            build_dir() / "bin" / "raylet", f"--driver-fd={theirs.fileno()}", f"--executable-fd={exe}",
            f"--driver-pid={os.getpid()}", "--num-cpus=2", pass_fds=[theirs.fileno(), exe], **options)
        theirs.close()
        os.close(exe)
        self.bytes = b""

    def send(self, data):
        self.socket.sendall(data)

    def next(self):
        """(type, body) of the next frame; (None, b"") at the end of the link."""
        while True:
            if len(self.bytes) >= 16:
                length = struct.unpack_from("<I", self.bytes)[0]
                if len(self.bytes) >= length:
                    data, self.bytes = self.bytes[:length], self.bytes[length:]
                    return data[4], data[16:]
            try:
                more = self.socket.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                return GONE, b""
            self.bytes += more

    def until(self, kind):
        while True:
            found, body = self.next()
            if found == kind or found is GONE:
                return found, body


def ends_cleanly(cluster, link, statuses=(0,)):
    assert link.process.wait(10) in statuses, repr(link.process)
    cluster.all_gone()


def test_a_driver_is_welcome(cluster):
    link = Link(cluster)
    link.send(hello())
    assert link.until(WELCOME)[0] == WELCOME
    link.socket.close()
    ends_cleanly(cluster, link)


def test_frames_in_single_bytes(cluster):
    link = Link(cluster)
    for byte in hello():
        link.send(bytes([byte]))
    assert link.until(WELCOME)[0] == WELCOME
    link.socket.close()
    ends_cleanly(cluster, link)


def test_another_protocol_version_is_refused_with_a_sentence(cluster):
    link = Link(cluster)
    link.send(hello(protocol=77))
    kind, body = link.until(ERROR)
    assert kind == ERROR and b"version" in body[4:], body
    link.socket.close()
    ends_cleanly(cluster, link, (0, 1))


@pytest.mark.parametrize("data", [
    b"\xff" * 64,                        # no frame at all
    frame(HELLO, b"", length=3),         # shorter than its header
    frame(HELLO, b"", length=1 << 31),   # longer than a frame may be
    frame(HELLO, b"\1\0\0\0"),           # shorter than its first version
    frame(250, b"hello?"),               # no such type
    hello()[:20],                        # cut
    frame(16, b"\0" * 20),               # a request before HELLO
    b"",
], ids=["noise", "length 3", "length 2^31", "short hello", "unknown type", "cut", "no hello", "nothing"])
def test_bytes_that_are_no_hello(cluster, data):
    link = Link(cluster)
    link.send(data)
    link.socket.shutdown(socket.SHUT_WR)
    link.until(GONE)
    ends_cleanly(cluster, link, (0, 1))


@pytest.mark.parametrize("data", [
    b"\xff" * 64,
    hello(),                                                 # replayed
    frame(16, b"\0" * 8),                                    # a lease request cut short
    frame(16, struct.pack("<QIII", 1, 1 << 31, 0, 1 << 30)),  # that claims resources it does not carry
    frame(16, struct.pack("<QIII", 1, 1, 0, 1) + b"x" * 48 + struct.pack("<q", 10000)),  # unterminated name
    frame(16, struct.pack("<QIII", 1, 1, 0, 1) + b"CPU".ljust(48, b"\0") + struct.pack("<q", -10000)),
    frame(17, struct.pack("<Q", 12345)),                     # cancel of a ticket that never was
    frame(18, struct.pack("<Q", 12345)),                     # return of a lease that never was
    frame(25, struct.pack("<Q", 1)),                         # what only a worker says
    frame(81, struct.pack("<Qii", 1, 1, 0)),                 # what only a zygote says
    frame(82, struct.pack("<ii", os.getpid(), 9)),
    frame(18, struct.pack("<Q", 1), flags=1),                # announces a descriptor that is not there
    frame(60, b"\0" * 8),
], ids=["noise", "replayed hello", "cut", "resources not there", "long name", "negative", "cancel", "return", "worker's",
        "zygote's SPAWNED", "zygote's EXITED", "no descriptor", "log"])
def test_bytes_after_hello(cluster, data):
    """The link ends or goes on; the raylet neither dies of it nor leaves anything."""
    link = Link(cluster)
    link.send(hello())
    assert link.until(WELCOME)[0] == WELCOME
    link.send(data)
    link.socket.shutdown(socket.SHUT_WR)
    link.until(GONE)
    ends_cleanly(cluster, link, (0, 1))


@pytest.mark.parametrize("route", [1, 77, 0x80000000 | 9999], ids=["never bound", "of a dead worker", "of no process"])
def test_frames_to_a_process_that_is_gone(cluster, route):
    """They are dropped; the raylet goes on serving who sent them."""
    info, info_reply, push, done = 62, 63, 41, 43
    link = Link(cluster)
    link.send(hello())
    assert link.until(WELCOME)[0] == WELCOME
    for sequence, kind in enumerate([push, done, push]):
        link.send(HEADER.pack(16 + 64, kind, 0, 0, route, sequence) + b"\1" * 64)
    link.send(HEADER.pack(16, info, 0, 0, 0, 1))
    assert link.until(info_reply)[0] == info_reply
    link.socket.close()
    ends_cleanly(cluster, link)


@pytest.mark.parametrize("argument,word", [
    ("--num-cpus=-1", "num-cpus"),
    ("--num-cpus=nan", "num-cpus"),
    ("--resource=gpu", "resource"),
    ("--resource=gpu:-1", "resource|gpu"),
    ("--driver-fd=x", "driver-fd"),
    ("--no-such-option", "no-such-option"),
    ("argument", "argument"),
])
def test_bad_command_lines(cluster, argument, word):
    done = subprocess.run([build_dir() / "bin" / "raylet", argument], env=cluster.env(), capture_output=True, text=True,
                          timeout=10, check=False)
    assert done.returncode == 2 and any(w in done.stderr for w in word.split("|")), done
