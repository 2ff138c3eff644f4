# SPDX-License-Identifier: Apache-2.0
"""Disks that are full: nothing ends, nothing that was answered is lost, and with room again all goes on."""
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import grpc
import pytest
from conftest import build_dir, slow, wait_until
from test_gcs import TOKEN, Gcs
from test_jobs import ask
from test_machines import NODES, counts, leave
from test_start import HERE, nodes  # pylint: disable=unused-import

MIB = 1 << 20


class Disk:
    """A small file system of its own, and what fills it."""

    def __init__(self, folder):
        self.folder = folder
        self.ballast = []

    def fill(self, left=0):
        """But for so many bytes."""
        stat = os.statvfs(self.folder)
        path = self.folder / f"ballast-{len(self.ballast)}"
        self.ballast.append(path)
        with path.open("wb", buffering=0) as f:
            try:
                f.write(bytes(max(stat.f_bavail * stat.f_frsize - left, 0)))
                while left == 0:
                    f.write(b"x")
            except OSError:
                pass

    def fill_inodes(self, left=0):
        while os.statvfs(self.folder).f_ffree > left:
            path = self.folder / f"ballast-{len(self.ballast)}"
            self.ballast.append(path)
            path.touch()

    def free(self):
        for path in self.ballast:
            path.unlink()
        self.ballast = []


@pytest.fixture
def disk(cluster):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = cluster.path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=200", "none", folder], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class Asker:
    """Takes job numbers and puts keys again and again; knows what was answered."""

    def __init__(self, head):
        self.gcs = Gcs()
        self.gcs.port = int(head.address.split(":")[1])
        self.gcs.default = self.gcs.channel()
        self.numbers, self.keys, self.errors = [], [], []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.live)
        self.thread.start()

    def live(self):
        i = 0
        while not self.stopped.is_set():
            i += 1
            try:
                self.numbers.append(self.gcs.next_job(timeout=0.5 / slow()))
                self.gcs.put(f"key{i}", f"{i}" * 100, timeout=0.5 / slow())
                self.keys.append(i)
            except grpc.RpcError as e:
                self.errors.append((e.code(), e.details()))

    def goes_on(self):
        n = len(self.keys)
        wait_until(lambda: len(self.keys) > n + 3, 30 * slow(), "keys are put")

    def stop(self):
        self.stopped.set()
        self.thread.join()

    def check(self):
        """All that was answered is there."""
        assert len(set(self.numbers)) == len(self.numbers)
        for i in self.keys:
            assert self.gcs.get(f"key{i}") == f"{i}".encode() * 100


@pytest.fixture
def asker():
    askers = []

    def make(head):
        askers.append(Asker(head))
        return askers[-1]
    yield make
    for a in askers:
        a.stop()
        a.gcs.close()


def driver(nodes, node, wait=True):
    program = nodes.cluster.start("machines", env={"RAY_ADDRESS": str(node.folder)})
    program.say("init")
    if wait:
        program.expect(r"^ok \d+$")
    return program


def states(nodes, head):
    rows = nodes.list("nodes", env={"RAY_ADDRESS": head.address, "RAY_AUTH_TOKEN": TOKEN})
    return {n["node_name"]: n["state"] for n in rows}


@pytest.fixture
def redis(disk):
    """Of somebody else, on the small disk: one that answers what it could not write."""
    path = disk.folder / "socket"
    process = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", path, "--dir", disk.folder, "--save", "",
                                "--appendonly", "yes", "--appendfsync", "everysec"], stdout=subprocess.DEVNULL)
    wait_until(path.exists, 10 * slow(), "its socket")
    yield path
    process.kill()
    process.wait()


@pytest.mark.parametrize("whose", ["private", "external"])
def test_a_head_with_a_full_disk_waits(request, nodes, disk, asker, whose):
    env = {"RAY_restart_delay_max_ms": 50, "RAY_AUTH_TOKEN": TOKEN}
    nodes.temps.append(disk.folder)
    where = [f"--redis-address={request.getfixturevalue('redis')}"] if whose == "external" else []
    head = nodes.head("--node-name=first", *where, temp=disk.folder, env=env)
    second = nodes.join(head, "second", '--resources={"b": 10}', env=env)
    program = driver(nodes, head)
    there = counts(ask(program, "needing 2 0 b=1", NODES))
    a = asker(head)
    a.goes_on()
    old = head.daemons()
    disk.fill()
    n = len(a.errors)
    wait_until(lambda: len(a.errors) > n + 1, 30 * slow(), "changes wait")
    late = driver(nodes, second, wait=False)
    assert ask(program, "add 500", timeout=40) == "500"  # here and there
    assert counts(ask(program, "needing 2 0 b=1", NODES)) == there
    assert states(nodes, head) == {"first": "ALIVE", "second": "ALIVE"}  # what is known is told
    os.kill(head.daemon("gcs_server"), signal.SIGKILL)
    wait_until(lambda: head.daemon("gcs_server") not in (None, old["gcs_server"]), 10 * slow(), "another gcs_server")
    assert ask(program, "add 500", timeout=40) == "500"
    assert not late.out
    disk.free()
    late.expect(r"^ok \d+$", 40)
    assert ask(late, "add 500", timeout=40) == "500"
    a.goes_on()
    a.stop()
    a.check()
    assert states(nodes, head) == {"first": "ALIVE", "second": "ALIVE"}
    assert head.daemon("raylet") == old["raylet"]
    leave(program)
    leave(late)
    nodes.ray("stop", f"--temp-dir={nodes.temp('second')}")
    nodes.ray("stop", f"--temp-dir={disk.folder}")
    nodes.all_gone()


@pytest.mark.parametrize("of_what", ["bytes", "files"])
def test_tasks_go_on_where_logs_find_no_room(nodes, disk, of_what):
    head = nodes.head("--node-name=first")
    nodes.temps.append(disk.folder)
    second = nodes.start(f"--address={head.address}", "--node-name=second", '--resources={"b": 10}', temp=disk.folder)
    if of_what == "bytes":
        disk.fill()
    else:
        disk.fill_inodes()
    for node in (head, second):
        program = driver(nodes, node)
        there = counts(ask(program, "needing 20 1000 b=4", NODES))
        assert sum(there.values()) == 20
        assert ask(program, "add 500", timeout=40) == "500"
        ask(program, "hold 1 0 b=1")
        ask(program, f"get {ask(program, 'make 300000 1 b=1')}", r"sum (\d+)")
        program.kill()
    program = driver(nodes, head)
    disk.free()
    assert counts(ask(program, "needing 20 1000 b=4", NODES)) == there
    leave(program)
    assert second.daemon("raylet")
    assert of_what == "bytes" or "event=no_room" in second.log("raylet.err")
    nodes.ray("stop", f"--temp-dir={disk.folder}")
    nodes.ray("stop")
    nodes.all_gone()


def test_ray_start_names_the_disk_that_is_full(nodes, disk):
    """However far it comes."""
    for fill, step in ((disk.fill, 8192), (disk.fill_inodes, 3)):
        left = 0
        while True:
            fill(left * step)
            done = subprocess.run([build_dir() / "bin/ray", "start", "--head", "--port=0", f"--node-ip-address={HERE}",
                                   "--num-cpus=2", "--object-store-memory=16777216", f"--temp-dir={disk.folder}"],
                                  env=nodes.cluster.env(HOME=nodes.home), capture_output=True, text=True, check=False,
                                  timeout=60 * slow())
            disk.free()
            if done.returncode == 0:
                break
            assert done.returncode == 1
            assert str(disk.folder) in done.stderr and re.search("another folder by (RAY_TMPDIR|--temp-dir)", done.stderr)
            left += 1
        assert left > 4
        nodes.ray("stop", f"--temp-dir={disk.folder}")
