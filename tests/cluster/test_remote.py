# SPDX-License-Identifier: Apache-2.0
"""A driver on a machine without a node ("a laptop"): here a temp folder without one, or a network namespace."""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from concurrent import futures

import grpc
import pytest
from conftest import build_dir, slow, wait_until
from test_gcs import message
from test_jobs import ask
from test_machines import NODES, TOKEN, Machines, counts, leave, machines, two  # noqa: F401 (fixtures)
from test_network import finish, marks, network, once_each, wires  # noqa: F401 (fixtures)
from test_why import ask_ray, job_of, ray, wait_for, waits, workers

GONE_S = 5  # after the end of a driver nothing of it remains, anywhere
LIMIT_MS = 1000  # until it is given up to reach a cluster
ELINK = 16


class Laptop:
    """Where drivers run and no node does."""

    def __init__(self, cluster, address, enter=()):
        self.cluster, self.address, self.enter = cluster, address, list(enter)
        self.temp = cluster.path / "laptop"
        self.temp.mkdir()

    def driver(self, driver="machines", wait=True, **env):
        program = self.cluster.start(*self.enter, self.cluster.program(driver),
                                     env={"RAY_ADDRESS": self.address, "RAY_TMPDIR": self.temp,
                                          "RAY_AUTH_TOKEN": TOKEN, **env})
        program.say("init")
        if wait:
            program.expect(r"^ok \d+$", timeout=20)
        return program

    def raylets(self):
        """Of its drivers."""
        return [p for p in self.cluster.processes() if p.name == "raylet" and "--driver-pid=" in p.command]

    def is_clean(self):
        return not self.raylets() and not [p for p in self.temp.iterdir() if p.name.startswith("session_2")]

    def ray(self, *words):
        return subprocess.run([*self.enter, build_dir() / "bin" / "ray", *words, f"--address={self.address}"],
                              check=True, capture_output=True, text=True, timeout=30 * slow(),
                              env=self.cluster.env(RAY_AUTH_TOKEN=TOKEN)).stdout

    def nodes(self):
        """Of drivers and others: how each is."""
        rows = json.loads(self.ray("list", "nodes", "--format=json"))
        return ([(n["state"], n["state_message"]) for n in rows if n["is_driver_node"]],
                [(n["state"], n["state_message"]) for n in rows if not n["is_driver_node"]])


def laptop_of(machines):
    return Laptop(machines.cluster, f"127.0.0.1:{machines.port}")


def work(program, size=3_000_000):
    """What a program may do: small tasks, tasks that call tasks, large values each way, prints."""
    assert ask(program, "cluster", r"cluster (.*)$") == "2 4"  # at once, and without itself
    where = counts(ask(program, "where 100 20000", NODES, timeout=60))
    assert len(where) == 2 and sum(where.values()) == 100, where
    assert sorted(counts(ask(program, "meet 4", NODES, timeout=60)).values()) == [2, 2]
    assert ask(program, "add 3000", timeout=60) == "3000"
    assert ask(program, "fib 8", timeout=60) == "21"
    mine = ask(program, f"put {size} 7")
    total = ask(program, f"get {mine}", r"sum (\d+)")
    for name in "ab":
        assert ask(program, f"pass {mine} 0 {name}=1", r"sum \w{8} (\d+)", timeout=60) == total
        assert int(ask(program, f"inside {mine} 0 {name}=1", timeout=60)) == int(total) >> 1
        there = ask(program, f"make {size} 7 {name}=1")
        assert ask(program, f"get {there}", r"sum (\d+)", timeout=60) == total
        other = "b" if name == "a" else "a"
        assert ask(program, f"pass {there} 0 {other}=1", r"sum \w{8} (\d+)", timeout=60) == total


def test_it_works_as_on_a_node(two):
    laptop = laptop_of(two)
    program = laptop.driver()
    work(program)
    drivers, others = laptop.nodes()
    assert drivers == [("ALIVE", "")] and [s for s, _ in others] == ["ALIVE", "ALIVE"]
    status = laptop.ray("status")
    assert "2 alive, 0 dead; drivers on machines without a node: 1" in status and " driver " in status
    assert not two.cluster.zygotes(laptop.raylets()[0])  # no task runs there
    leave(program)
    assert laptop.is_clean()
    drivers, _ = laptop.nodes()
    assert drivers == [("DEAD", "it said good-bye")]
    assert "drivers" not in laptop.ray("status")
    assert json.loads(laptop.ray("list", "jobs", "--format=json"))[-1]["status"] == "FINISHED"
    wait_until(lambda: not two.cluster.workers() or None, GONE_S * slow(), "its workers end")
    again = laptop.driver()
    assert ask(again, "add 10") == "10"
    leave(again)


def test_a_node_that_it_has_never_asked(two):
    """That has work of its job by another one, and cannot dial it."""
    program = laptop_of(two).driver()
    for size in (100, 3_000_000):
        mine = ask(program, f"put {size} 7")
        total = ask(program, f"get {mine}", r"sum (\d+)")
        node, _, found = ask(program, f"relay {mine} 0 b=1", r"sum (.*)", timeout=30).rpartition(" ")
        assert (node, found) == (two.nodes[1].id, total)
    leave(program)


def test_others_run_beside_it(two):
    """Two of them and one on a node: no job sees another's."""
    laptop = laptop_of(two)
    programs = [laptop.driver(), laptop.driver(), two.nodes[0].driver()]
    for program in programs:
        assert ask(program, "cluster", r"cluster (.*)$") == "2 4"
        program.say("where 60 5000")
    for program in programs:
        assert sum(counts(program.expect(r"^" + NODES, timeout=60).group(1)).values()) == 60
    for program in programs:
        leave(program)


def test_prints_come(two):
    program = laptop_of(two).driver()
    ask(program, "hold 1 0 b=1", r"ok (\d+)")
    program.expect(r"^\(hold pid=\d+, ip=127\.0\.0\.1\) held \d+ ")
    program.kill()


@pytest.mark.parametrize("how", ["driver", "both"])
def test_kill_9(cluster, how):
    """Of the driver: its raylet ends with it, and says so. Of both: silence does."""
    machines = Machines(cluster, "--driver-silence-ms=1500")
    machines.add("a", resources="a:1000000")
    machines.all_see()
    laptop = laptop_of(machines)
    program = laptop.driver()
    ask(program, "hold 1 0 a=1", r"ok (\d+)")
    program.expect(r"\) held \d+ ")
    raylet, = laptop.raylets()
    if how == "both":
        cluster.kill_at_once(lambda p: p.pid in (raylet.pid, program.pid))
    program.kill()
    wait_until(lambda: not cluster.workers() and not cluster.zygotes() or None, GONE_S * slow(), "its worker ends")
    why = "it said good-bye" if how == "driver" else "it said nothing for 1 s"
    wait_until(lambda: laptop.nodes()[0] == [("DEAD", why)] or None, GONE_S * slow(), "its node is dead")
    if how == "driver":
        wait_until(lambda: laptop.is_clean() or None, GONE_S * slow(), "nothing is left")
    machines.stop()


def test_a_raylet_of_it_that_is_killed(two):
    laptop = laptop_of(two)
    program = laptop.driver()
    os.kill(laptop.raylets()[0].pid, signal.SIGKILL)
    program.say("add 1")
    program.expect(r"^error \d+ .*the raylet is gone")
    program.kill()


def demands(machines):
    return json.loads(ray(machines, "status", "--format=json").stdout)["demands"]


def test_what_waits_at_its_own_node_is_told_elsewhere(two):
    laptop = laptop_of(two)
    program = laptop.driver()
    never = ask(program, "id " + ask(program, "hold 2 0 tpu=1"), r"id (\S+)")
    wait = wait_for(two, "hold", "infeasible")
    assert (wait["resources"], wait["job"]) == ({"CPU": 1, "tpu": 1}, job_of(two, program))
    assert "needs 1 tpu, which no node has: no node can ever run it" in wait["message"]
    rows = json.loads(ray(two, "list", "nodes", "--format=json").stdout)
    assert wait["node_id"] == next(n["node_id"] for n in rows if n["is_driver_node"])
    assert demands(two) == [{"resources": wait["resources"], "count": wait["count"]}]
    assert [w["pid"] for w in workers(two) if w["worker_type"] == "DRIVER"] == [program.pid]
    here = rf"owned by driver pid={program.pid} at 127\.0\.0\.1: "
    told = ray(two, "why", never).stdout
    assert re.search(rf"by hold, {here}waits for a worker, for [\d.]+ s\n    {wait['count']} wanted at .*: needs 1 tpu", told), told
    held = ask(program, "id " + ask(program, "hold 1 0 b=1"), r"id (\S+)")
    wait_until(lambda: re.search(rf"{here}runs on worker pid=\d+ at b, ", ray(two, "why", held).stdout), 20 * slow(), "it runs")
    checked = ask_ray(two, "doctor").stdout
    assert "2 of 2 answer from here" in checked and "cannot come" not in checked
    os.kill(program.pid, signal.SIGSTOP)
    try:
        assert f"driver pid={program.pid} at 127.0.0.1, cannot be asked: " in ray(two, "why", held, status=1).stdout
    finally:
        os.kill(program.pid, signal.SIGCONT)
    raylet, = laptop.raylets()
    os.kill(raylet.pid, signal.SIGSTOP)
    try:
        said = ray(two, "why", status=1).stderr
    finally:
        os.kill(raylet.pid, signal.SIGCONT)
    assert "the node of a driver at 127.0.0.1 does not answer: nothing came within 2000 ms: it is stopped" in said
    wait_until(lambda: ask_ray(two, "why").returncode == 0 or None, 20 * slow(), "it answers again")
    leave(program)
    assert ray(two, "why").stdout == "nothing waits\n"


def test_what_waits_elsewhere_is_counted_once(two):
    """Its own node has asked others for all of it."""
    program = laptop_of(two).driver()
    program.say("where 12 60000000")
    wait_until(lambda: sum(w["function"] == "where" for w in workers(two)) == 4 or None, 20 * slow(), "four run")

    def agree():
        told, = demands(two) or [None]
        return told and told["count"] == sum(w["count"] for w in waits(two, "where")) and told
    assert wait_until(agree, 20 * slow(), "both count the same")["resources"] == {"CPU": 1}
    assert {(w["reason"], w["node_name"]) for w in waits(two, "where")} <= {("resources", "a"), ("resources", "b")}
    program.kill()


def test_a_cluster_without_nodes_is_waited_for(machines):
    laptop = laptop_of(machines)
    program = laptop.driver()
    assert ask(program, "cluster", r"cluster (.*)") == "0 0"
    program.say("add 3")
    wait_until(lambda: "waits for a node with 1 CPU" in program.err or None, 20 * slow(), "it says so")
    assert "needs 1 CPU, which no node has" in ray(machines, "why").stdout
    machines.add("a")
    program.expect(r"^ok 3$", timeout=30)
    leave(program)


def test_the_gcs_away_for_a_while(two):
    """What runs goes on; the end of a driver needs no GCS."""
    laptop = laptop_of(two)
    program = laptop.driver()
    assert ask(program, "add 10") == "10"
    two.gcs.kill(signal.SIGSTOP)
    assert ask(program, "add 100", timeout=30) == "100"
    leave(program)
    wait_until(lambda: not two.cluster.workers() or None, GONE_S * slow(), "its workers end")
    two.gcs.kill(signal.SIGCONT)


# --- addresses that are none ---


def refused(cluster, address, *says, **env):
    """ray_init fails in time, with these words."""
    laptop = Laptop(cluster, address)
    started = time.monotonic()
    program = laptop.driver(wait=False, RAY_connect_timeout_ms=LIMIT_MS, **env)
    error = program.expect(r"^error (\d+) (.*)$", timeout=20)
    assert time.monotonic() - started < 10 * slow()
    assert int(error[1]) == ELINK
    for word in says:
        assert word in error[2], error[2]
    program.say("exit 0")
    assert program.wait() == 0
    assert "raylet: " not in program.err  # once is enough
    assert laptop.is_clean()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as s:
        yield s


def test_nothing_listens(cluster, listener):
    port = listener.getsockname()[1]
    listener.close()
    refused(cluster, f"127.0.0.1:{port}", f"no GCS has answered at 127.0.0.1:{port} for {LIMIT_MS} ms",
            "nothing listens there")


def test_no_such_name(cluster):
    refused(cluster, "no-such-host.invalid:6379", "no-such-host.invalid:6379", "is that its address")


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command\r\n"])
def test_no_gcs(cluster, listener, says):
    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            connection.sendall(says)
    connections = []
    thread = threading.Thread(target=serve)
    thread.start()
    refused(cluster, f"localhost:{listener.getsockname()[1]}", "does not answer as a GCS does")
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in connections:
        connection.close()


def test_another_server(two):
    port = two.nodes[0].program.expect(r"^node \S+ \d+ (\d+) \d+$").group(1)
    refused(two.cluster, f"127.0.0.1:{port}", f"127.0.0.1:{port}", "no GCS")


@pytest.mark.parametrize("where", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HOME"])
def test_a_wrong_token(machines, where):
    home = machines.cluster.path / "home"
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(parents=True)
    path.write_text("another")
    env = {"RAY_AUTH_TOKEN": "", "HOME": home}
    if where == "RAY_AUTH_TOKEN":
        env[where] = "another"
    elif where == "RAY_AUTH_TOKEN_PATH":
        env[where] = path
    refused(machines.cluster, f"127.0.0.1:{machines.port}", "token", where if where != "HOME" else str(path), **env)


def test_no_token(machines):
    refused(machines.cluster, f"127.0.0.1:{machines.port}", "there is no token", RAY_AUTH_TOKEN="",
            HOME=machines.cluster.path)


def test_another_version(cluster):
    def hello(request, context):
        return message((1, 99), (3, b"c" * 28))
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
        "ray.c.GcsLink", {"Hello": grpc.unary_unary_rpc_method_handler(hello)}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    refused(cluster, f"127.0.0.1:{port}", "speaks protocol 99")
    server.stop(0).wait()


# --- a machine of its own, with a cable ---


@pytest.fixture
def laptop(wires):
    """Two nodes, and a namespace without one."""
    for name in "ab":
        wires.add(name)
    wires.all_see()
    return Laptop(wires.cluster, wires.address, wires.network.spaces["c"].enter)


def test_from_a_machine_that_nobody_can_dial(laptop, wires):
    """Whatever its firewall: nothing listens there."""
    program = laptop.driver()
    work(program, 20_000_000)
    ask(program, "hold 1 0 tpu=1")
    hub = [*wires.network.hub.enter, build_dir() / "bin" / "ray", "why", f"--address={wires.address}"]
    env = wires.cluster.env(RAY_AUTH_TOKEN=TOKEN)
    wait_until(lambda: "needs 1 tpu, which no node has" in subprocess.run(
        hub, check=True, capture_output=True, text=True, timeout=30 * slow(), env=env).stdout or None, 20 * slow(), "why")
    listening = subprocess.run([*laptop.enter, "ss", "-Hltn"], check=True, capture_output=True, text=True).stdout
    assert listening == ""
    leave(program)


def test_a_cable_out_for_ten_seconds(laptop, wires, marks):
    """More than the silence of a node, less than that of a driver's."""
    program = laptop.driver()
    mine = ask(program, "put 3000000 7")
    total = ask(program, f"get {mine}", r"sum (\d+)")
    program.say(f"mark 800 5000 {marks.path}")
    marks.wait(wires.nodes[0], 20)
    space = wires.network.spaces["c"]
    space.unplug()
    out = time.monotonic()
    wait_until(lambda: time.monotonic() - out >= 10 or None, 20, "a long time")
    assert "ok 800" not in program.out
    space.plug()
    finish(program, 800)
    assert marks.by_number() == once_each(800)
    for name in "ab":
        assert ask(program, f"pass {mine} 0 {name}=1", r"sum \w{8} (\d+)", timeout=60) == total
    assert [s for s, _ in laptop.nodes()[0]] == ["ALIVE"]
    leave(program)
