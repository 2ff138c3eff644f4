# SPDX-License-Identifier: Apache-2.0
"""Several raylets and a gcs_server on this machine, each raylet with its own session: one cluster for a program."""
import os
import re
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest
from conftest import build_dir, slow, wait_until
from test_idle import tell_the_machine
from test_jobs import Stranger, ask
from test_raylet import ERROR, frame

TOKEN = "a-token-of-the-tests"


class Node:
    """A raylet of a cluster of several."""

    def __init__(self, machines, name, num_cpus, resources, env):
        self.machines, self.name = machines, name
        options = [f"--gcs-address=127.0.0.1:{machines.port}", "--node-ip-address=127.0.0.1", f"--node-name={name}",
                   f"--session-dir={machines.cluster.temp}/session_2_{name}", "--ready-fd=1",
                   f"--num-cpus={num_cpus}", "--object-store-memory=268435456"]
        if resources:
            options.append(f"--resource={resources}")
        self.program = machines.cluster.start(build_dir() / "bin" / "raylet", *options,
                                              env={"RAY_AUTH_TOKEN": TOKEN, **env})
        self.pid = self.program.pid
        line = self.program.expect(r"^(/\S*)(?: .*)?$")
        self.session = Path(line.group(1))

    def log(self):
        return (self.session / "logs" / "raylet.err").read_text(errors="replace")

    @property
    def id(self):
        """The first 8 digits of its id."""
        return re.search(r"registered.* node=([0-9a-f]{8})", self.log()).group(1)

    def driver(self, wait=True):
        program = self.machines.cluster.start("machines", env={"RAY_ADDRESS": str(self.session)})
        program.say("init")
        if wait:
            program.expect(r"^ok \d+$")
        return program

    def kill(self):
        self.program.kill()


class Machines:
    """A cluster of gcs_server --memory and raylets."""

    def __init__(self, cluster, *options):
        self.cluster = cluster
        self.nodes = []
        tell_the_machine(cluster)
        read, write = os.pipe()
        os.set_inheritable(write, True)
        self.gcs = cluster.start(build_dir() / "bin" / "gcs_server", "--address=127.0.0.1:0", "--memory",
                                 f"--ready-fd={write}", *options, env={"RAY_AUTH_TOKEN": TOKEN}, pass_fds=(write,))
        os.close(write)
        with os.fdopen(read) as pipe:
            self.port = int(pipe.readline().split()[1])

    def add(self, name, num_cpus=2, resources=None, **env):
        node = Node(self, name, num_cpus, resources, env)
        self.nodes.append(node)
        return node

    def all_see(self, n=None):
        """Each raylet knows of all."""
        n = n or len(self.nodes)
        for node in self.nodes:
            program = node.driver()
            wait_until(lambda p=program: int(ask(p, "cluster", r"cluster (\d+) [\d.]+")) == n or None, 10 * slow(),
                       f"{node.name} sees {n} nodes")
            leave(program)

    def stop(self):
        for node in self.nodes:
            if node.program.process.poll() is None:
                node.program.kill(signal.SIGTERM)
        for node in self.nodes:
            if node.program.wait() not in (0, -signal.SIGKILL):
                pytest.fail(f"{node.name} exited with {node.program.wait()}: {node.program!r}")
        self.gcs.kill(signal.SIGTERM)
        assert self.gcs.wait() == 0, repr(self.gcs)


def leave(program):
    assert ask(program, "shutdown") == "0"
    program.say("exit 0")
    assert program.wait() == 0, repr(program)


def counts(answer):
    return {node: int(n) for node, n in (pair.split("=") for pair in answer.split())}


NODES = r"nodes ((?:[0-9a-f]{8}=\d+ ?)+)"


@pytest.fixture
def machines(cluster):
    m = Machines(cluster)
    yield m
    m.stop()


@pytest.fixture
def two(machines):
    machines.add("a", resources="a:1000000")
    machines.add("b", resources="b:1000000")
    machines.all_see()
    return machines


def test_tasks_run_on_all_nodes(two):
    program = two.nodes[0].driver()
    where = counts(ask(program, "where 200 20000", NODES, timeout=60))
    assert len(where) == 2 and sum(where.values()) == 200, where
    leave(program)


def test_tasks_that_must_all_run_at_once_do(two):
    """Four CPUs on two nodes: four tasks that wait for each other."""
    program = two.nodes[0].driver()
    where = counts(ask(program, "meet 4", NODES, timeout=60))
    assert sorted(where.values()) == [2, 2], where
    leave(program)


def test_leases_that_are_idle_elsewhere_make_room(two):
    """Another function of the program has leases on all four CPUs, and no task any more."""
    program = two.nodes[0].driver()
    where = counts(ask(program, "where 200 20000", NODES, timeout=60))
    assert len(where) == 2, where
    where = counts(ask(program, "meet 4", NODES, timeout=60))
    assert sorted(where.values()) == [2, 2], where
    leave(program)


def test_a_resource_of_another_node(two):
    """What the own node lacks runs where it is, and waits there when it is busy."""
    program = two.nodes[0].driver()
    where = counts(ask(program, "needing 20 1000 b=40", NODES, timeout=60))
    assert len(where) == 1 and sum(where.values()) == 20, where
    leave(program)


def test_many_small_tasks_each_run_once(two, tmp_path):
    program = two.nodes[0].driver()
    assert ask(program, "add 20000", timeout=120) == "20000"
    path = tmp_path / "ran"
    assert ask(program, f"once 2000 0 {path}", timeout=120) == "2000"
    assert sorted(map(int, path.read_text().split())) == list(range(2000))
    leave(program)


def test_tasks_that_call_tasks(two):
    program = two.nodes[0].driver()
    assert ask(program, "fib 10", timeout=120) == "55"
    leave(program)


def test_prints_of_tasks_elsewhere_come_to_the_driver(two):
    program = two.nodes[0].driver()
    ask(program, "hold 1 0 b=1", r"ok (\d+)")
    program.expect(r"^\(hold pid=\d+, ip=127\.0\.0\.1\) held \d+ ")
    program.kill()


@pytest.mark.parametrize("size", [200_000, 50_000_000])
def test_results_made_elsewhere_are_got(two, size):
    program = two.nodes[0].driver()
    here = ask(program, f"put {size} 7")
    there = ask(program, f"make {size} 7 b=1")
    total = ask(program, f"get {here}", r"sum (\d+)")
    assert ask(program, f"get {there}", r"sum (\d+)", timeout=60) == total
    assert ask(program, f"get {there}", r"sum (\d+)") == total  # again: the copy that is here
    leave(program)


def test_the_books_of_each_node_agree(two):
    """With copies of what others own, while they are there and after."""
    program = two.nodes[0].driver()
    mine = ask(program, "put 3000000 3")
    there = ask(program, "make 3000000 4 b=1")
    ask(program, f"get {there}", r"sum (\d+)")
    ask(program, f"pass {mine} 0 b=1", r"sum [0-9a-f]{8} (\d+)")

    def check(node):
        return subprocess.run([build_dir() / "bin" / "ray", "memory", "--check", f"--session-dir={node.session}"],
                              capture_output=True, text=True, env=two.cluster.env(), timeout=30 * slow())
    for node in two.nodes:
        found = check(node)
        assert found.returncode == 0, found.stdout + found.stderr
    ask(program, f"drop {mine}")
    ask(program, f"drop {there}")
    wait_until(lambda: all(" 0 objects in the store" in check(node).stdout for node in two.nodes) or None, 10 * slow(),
               "what was dropped is freed on both nodes")
    leave(program)


def test_what_is_waited_for_is_here(two):
    """So the end of the node that made it changes nothing."""
    program = two.nodes[0].driver()
    there = ask(program, "make 20000000 7 b=1")
    assert ask(program, f"bring {there}", timeout=60) == "1"
    here = ask(program, "put 20000000 7")
    two.nodes[1].program.kill(signal.SIGTERM)
    wait_until(lambda: int(ask(program, "cluster", r"cluster (\d+) [\d.]+")) == 1 or None, 20 * slow(), "it is noticed")
    assert ask(program, f"get {there}", r"sum (\d+)") == ask(program, f"get {here}", r"sum (\d+)")
    leave(program)


@pytest.mark.parametrize("size", [200_000, 20_000_000])
def test_arguments_go_where_the_task_is(two, size):
    program = two.nodes[0].driver()
    mine = ask(program, f"put {size} 3")
    total = ask(program, f"get {mine}", r"sum (\d+)")
    for resource in ("a=1", "b=1", "b=1"):
        assert ask(program, f"pass {mine} 0 {resource}", r"sum [0-9a-f]{8} (\d+)", timeout=60) == total
    there = ask(program, f"make {size} 3 b=1")
    for resource in ("a=1", "b=1"):
        assert ask(program, f"pass {there} 0 {resource}", r"sum [0-9a-f]{8} (\d+)", timeout=60) == total
        assert int(ask(program, f"inside {there} 0 {resource}", timeout=60)) == int(total) >> 1
    leave(program)


def test_tasks_run_where_their_arguments_lie(two):
    """As long as there is room, though the leases of who made them are still there; else they run elsewhere."""
    program = two.nodes[0].driver()
    size = 50000000
    there, other = ask(program, f"make {size} 3 b=1"), ask(program, f"make {size} 4 b=1")
    total = ask(program, f"get {ask(program, f'put {size} 3')}", r"sum (\d+)")
    ask(program, f"get {other}", r"sum (\d+)", timeout=60)  # both leases are idle from now on
    for _ in range(3):
        assert ask(program, f"pass {there} 0", r"sum ([0-9a-f]{8} \d+)") == f"{two.nodes[1].id} {total}"
    ask(program, "hold 2 0 b=1")
    for _ in range(2):
        program.expect(rf"\) held \d+ {two.nodes[1].id}")
    assert ask(program, f"pass {there} 0", r"sum ([0-9a-f]{8} \d+)") == f"{two.nodes[0].id} {total}"
    program.kill()


def test_a_worker_elsewhere_that_is_killed_is_noticed(two):
    program = two.nodes[0].driver()
    held = ask(program, "hold 1 0 b=1")
    pid = int(program.expect(r"\) held (\d+) ").group(1))
    os.kill(pid, signal.SIGKILL)
    program.say(f"await {held}")
    answer = program.expect(r"^error \d+ .*killed by signal 9.*; node ([0-9a-f]{8})$", timeout=20)
    assert answer.group(1) == two.nodes[1].id
    leave(program)


def test_a_driver_that_dies_leaves_nothing_on_any_node(two):
    program = two.nodes[0].driver()
    ask(program, "hold 1 0 b=1")
    pid = int(program.expect(r"\) held (\d+) ").group(1))
    program.kill()
    wait_until(lambda: all(p.pid != pid or p.state == "Z" for p in two.cluster.processes()) or None, 5 * slow(),
               "its worker elsewhere ends")
    wait_until(lambda: not two.cluster.zygotes() or None, 5 * slow(), "its zygotes end")


def test_a_raylet_that_is_killed(two):
    """The driver elsewhere hears of it, its tasks that may be retried run on the node that is left."""
    program = two.nodes[0].driver()
    held = ask(program, "hold 1 0 b=1")
    program.expect(r"\) held (\d+) ")
    program.say("where 100 50000")
    node = two.nodes[1].id
    two.nodes[1].kill()
    answer = program.expect(r"^nodes (.*)$", timeout=40)
    assert sum(counts(answer.group(1)).values()) == 100
    program.say(f"await {held}")
    program.expect(rf"^error \d+ .*node.*; node {node}$", timeout=20)
    leave(program)
    for node in two.nodes[1:]:
        two.cluster.announce("")


def test_a_program_that_asks_before_it_is_welcome(machines):
    """Its job has no number yet, and no zygote."""
    node = machines.add("a")
    machines.gcs.kill(signal.SIGSTOP)
    stranger = Stranger(node)
    stranger.introduce(machines.cluster.program("machines"))
    stranger.send(frame(16, struct.pack("<QIIII48sq5s", 1, 1, 0, 1, 0, b"CPU", 10000, b"work")))
    kind, body = stranger.until(ERROR)
    machines.gcs.kill(signal.SIGCONT)
    assert kind == ERROR and b"waits for its WELCOME" in body, body
    program = node.driver()
    assert ask(program, "add 20") == "20"
    leave(program)
