# SPDX-License-Identifier: Apache-2.0
"""A cluster whose nodes have addresses and cables of their own: network namespaces on a bridge, all on this machine."""
import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import build_dir, slow, wait_until
from test_idle import tell_the_machine
from test_jobs import ask
from test_machines import NODES, TOKEN, Machines, Node, counts, leave
from test_start import Node as StartedNode
from test_start import Nodes

GONE_S = 2  # after the end of a raylet none of its workers remains
HEARD_S = 5  # after it the head knows
SILENCE_S = 6  # of a node that is declared dead


def ip(*words, **options):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=60, **options)


class Space:
    """A network namespace: a machine as far as addresses and cables go."""

    def __init__(self, network, name, address):
        self.network, self.name, self.address = network, f"{network.name}-{name}", address
        self.port = f"to-{name}"  # the bridge's end of its cable
        ip("netns", "add", self.name)

    @property
    def enter(self):
        """What runs a command there."""
        return [shutil.which("nsenter"), f"--net=/run/netns/{self.name}"]

    def received(self):
        """Bytes that came by its cable."""
        return json.loads(ip("-n", self.name, "-s", "-j", "link", "show", "cable").stdout)[0]["stats64"]["rx"]["bytes"]

    def unplug(self):
        ip("-n", self.network.hub.name, "link", "set", self.port, "down")

    def plug(self):
        ip("-n", self.network.hub.name, "link", "set", self.port, "up")

    def block(self, port):
        """Nothing leaves for this TCP port of other machines."""
        ip("-n", self.name, "rule", "add", "pref", "5", "ipproto", "tcp", "dport", str(port), "blackhole")

    def unblock(self):
        ip("-n", self.name, "rule", "delete", "pref", "5")


class Network:
    """The hub is a bridge in a namespace with an address too. With the namespaces all of it goes: nothing is in the
    machine's own network."""

    numbers = itertools.count()

    def __init__(self):
        self.name = f"ray-test-{os.getpid()}-{next(self.numbers)}"
        self.spaces = {}

    def open(self):
        """Skips the test if there can be none."""
        if os.geteuid() != 0:
            pytest.skip("network namespaces need root")
        for tool in ("ip", "ss", "nsenter"):
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not installed, see deploy/deps.sh")
        try:
            self.hub = self.space("hub")
            ip("-n", self.hub.name, "-batch", "-", input="link add bridge type bridge\n"
               f"addr add {self.hub.address}/24 dev bridge\nlink set bridge up\nlink set lo up\n")
            for name in "abc":
                self.join(name)
        except subprocess.CalledProcessError as e:
            pytest.skip(f"ip cannot make network namespaces with a bridge here: {e.stderr.strip()}")

    def space(self, name):
        self.spaces[name] = Space(self, name, f"10.77.0.{len(self.spaces) + 1}")
        return self.spaces[name]

    def join(self, name):
        s = self.space(name)
        ip("-n", self.hub.name, "-batch", "-", input=f"link add {s.port} type veth peer name cable netns {s.name}\n"
           f"link set {s.port} master bridge up\n")
        ip("-n", s.name, "-batch", "-", input=f"addr add {s.address}/24 dev cable\nlink set cable up\nlink set lo up\n")

    def close(self):
        for s in self.spaces.values():
            if Path(f"/run/netns/{s.name}").exists():
                ip("netns", "delete", s.name)


class Wired(Node):
    """A raylet in a namespace."""

    def __init__(self, machines, name, space, resources, *options):
        self.machines, self.name, self.space = machines, name, space
        argv = [f"--gcs-address={machines.address}", f"--node-ip-address={space.address}", f"--node-name={name}",
                f"--session-dir={machines.cluster.temp}/session_2_{name}", "--ready-fd=1", "--num-cpus=2",
                "--object-store-memory=67108864", f"--resource={resources}:1000000", *options]
        self.program = machines.cluster.start(*space.enter, build_dir() / "bin" / "raylet", *argv,
                                              env={"RAY_AUTH_TOKEN": machines.token})
        self.pid = self.program.pid
        found = self.program.expect(r"^(/\S*)\nnode ([0-9a-f]{8})[0-9a-f]+ \d+ (\d+) (\d+)$")
        self.session, self.hex = Path(found[1]), found[2]
        self.node_port, self.object_port = int(found[3]), int(found[4])
        self.seen = (self.session / "logs" / "raylet.err").open()  # readable when the session is removed

    @property
    def id(self):
        return self.hex

    def log(self):
        self.seen.seek(0)
        return self.seen.read()

    def driver(self, wait=True):
        program = self.machines.cluster.start(*self.space.enter, self.machines.cluster.program("machines"),
                                              env={"RAY_ADDRESS": str(self.session)})
        program.say("init")
        if wait:
            program.expect(r"^ok \d+$")
        return program

    def others(self):
        """Numbers of the nodes that it knows to live."""
        text = self.log()
        return (set(re.findall(r"event=node number=(\d+)", text)) -
                set(re.findall(r"event=node_dead number=(\d+)", text)))


class Wires(Machines):
    """A cluster of gcs_server, which is at the hub, and raylets."""

    def __init__(self, cluster, network, token=TOKEN):
        self.cluster, self.network, self.token, self.nodes = cluster, network, token, []
        tell_the_machine(cluster)
        read, write = os.pipe()
        self.gcs = cluster.start(*network.hub.enter, build_dir() / "bin" / "gcs_server",
                                 f"--address={network.hub.address}:0", "--memory", f"--ready-fd={write}",
                                 env={"RAY_AUTH_TOKEN": token}, pass_fds=(write,))
        os.close(write)
        with os.fdopen(read) as pipe:
            self.address = f"{network.hub.address}:{pipe.readline().split()[1]}"

    def add(self, name, *options, space=None, resources=None):
        self.nodes.append(Wired(self, name, self.network.spaces[space or name], resources or name, *options))
        return self.nodes[-1]

    def all_see(self, n=None):
        n = n or len(self.nodes)
        for node in self.nodes:
            wait_until(lambda node=node: len(node.others()) == n - 1 or None, 20 * slow(), f"{node.name} sees {n}")

    def close(self):
        try:
            self.stop()
        finally:
            for node in self.nodes:
                node.seen.close()


@pytest.fixture
def network():
    n = Network()
    try:
        n.open()
        yield n
    finally:
        n.close()


@pytest.fixture
def wires(cluster, network):
    w = Wires(cluster, network)
    yield w
    w.close()


@pytest.fixture
def three(wires):
    for name in "abc":
        wires.add(name)
    wires.all_see()
    return wires


class Marks:
    """What tasks have written: their number and where they ran."""

    def __init__(self, path):
        self.path = path

    def lines(self):
        text = self.path.read_text() if self.path.exists() else ""
        return [line.split() for line in text[:text.rfind("\n") + 1].splitlines()]

    def by_node(self):
        return Counter(node for _, node in self.lines())

    def by_number(self):
        return Counter(int(number) for number, _ in self.lines())

    def wait(self, node, n):
        """So many have run there."""
        wait_until(lambda: self.by_node()[node.id] >= n or None, 30 * slow(), f"{n} tasks ran at {node.name}")


@pytest.fixture
def marks(cluster):
    return Marks(cluster.path / "marks")


def once_each(n):
    return Counter(range(n))


def finish(program, n, timeout=40):
    """All its tasks had their results."""
    assert program.expect(r"^(ok %d|error .*)$" % n, timeout).group(0) == f"ok {n}", program


def test_three_machines_are_one(three):
    program = three.nodes[0].driver()
    where = counts(ask(program, "meet 6", NODES, timeout=60))
    assert where == {node.id: 2 for node in three.nodes}
    made = [ask(program, f"make 300000 {i} {name}=1") for i, name in enumerate("abc")]
    for i, ref in enumerate(made):
        total = ask(program, f"get {ref}", r"sum (\d+)")
        goes_to = three.nodes[(i + 1) % 3]  # by its cable, whoever has it
        assert ask(program, f"pass {ref} 0 {goes_to.name}=1", r"sum (\w{8} \d+)") == f"{goes_to.id} {total}"
    leave(program)


def test_a_cable_out_for_three_seconds_is_not_noticed(three, marks):
    a, b, _ = three.nodes
    program = a.driver()
    program.say(f"mark 500 5000 {marks.path}")
    marks.wait(b, 20)
    b.space.unplug()
    out = time.monotonic()
    wait_until(lambda: time.monotonic() - out >= 3 or None, 10, "three seconds")
    assert "ok 500" not in program.out  # some of it is at b
    b.space.plug()
    finish(program, 500)
    assert marks.by_number() == once_each(500)
    assert set(marks.by_node()) == {n.id for n in three.nodes}
    assert len(a.others()) == 2
    leave(program)


def test_nodes_that_do_not_reach_each_other_wait(three, marks):
    """Longer than the silence of the dead: the GCS hears both."""
    a, b, _ = three.nodes
    program = a.driver()
    program.say(f"mark 500 5000 {marks.path}")
    marks.wait(b, 20)
    ip("-n", a.space.name, "route", "add", "blackhole", f"{b.space.address}/32")
    out = time.monotonic()
    wait_until(lambda: time.monotonic() - out >= SILENCE_S + 2 or None, 20, "a long time")
    assert "ok 500" not in program.out
    ip("-n", a.space.name, "route", "delete", "blackhole", f"{b.space.address}/32")
    finish(program, 500)
    assert marks.by_number() == once_each(500)
    assert len(a.others()) == len(b.others()) == 2
    leave(program)


def test_a_way_that_is_cut_holds_up_no_other(three):
    """What waits for one node stays with who says it, whose traffic to all others goes on."""
    a, b, _ = three.nodes
    program = a.driver()
    size, share = 90000, {"a": 50, "b": 5, "c": 50}

    def echo(name, n):
        ask(program, f"echo {n} {size} {name}={share[name]}", timeout=60)

    def collect(n):
        assert ask(program, f"collect {n}", timeout=60) == str(n * size)
    for name in share:
        echo(name, 100)
        collect(100)
    echo("b", 2000)  # 20 workers, each with a window of a MiB
    ip("-n", a.space.name, "route", "add", "blackhole", f"{b.space.address}/32")
    for name in "ac":
        echo(name, 200)
        collect(200)
    ip("-n", a.space.name, "route", "delete", "blackhole", f"{b.space.address}/32")
    collect(2000)
    assert len(a.others()) == len(b.others()) == 2
    leave(program)


def pass_time(seconds, what):
    begin = time.monotonic()
    wait_until(lambda: time.monotonic() - begin >= seconds or None, seconds + 20, what)


def test_a_gcs_that_hears_nobody_declares_nobody_dead(three, marks):
    """As if the cable of its machine were out: that of a program's node is, of the others'."""
    a = three.nodes[0]
    program = a.driver()
    program.say(f"mark 500 5000 {marks.path}")
    marks.wait(three.nodes[1], 20)
    for node in three.nodes:
        node.space.unplug()
    wait_until(lambda: "event=cut_off " in three.gcs.err or None, 20 * slow(), "the GCS knows that it is alone")
    pass_time(SILENCE_S, "more than the silence of the dead")
    for node in three.nodes:
        node.space.plug()
    finish(program, 500)
    wait_until(lambda: "event=cut_off_ended" in three.gcs.err or None, 20 * slow(), "the GCS hears them")
    assert marks.by_number() == once_each(500)
    assert "event=node_dead" not in three.gcs.err
    leave(program)


def test_a_cable_that_flaps_kills_nobody(three, marks):
    """TCP waits ever longer before it tries again, so that a connection misses most of what would pass."""
    a, b, _ = three.nodes
    program = a.driver()
    program.say(f"mark 1000 20000 {marks.path}")
    marks.wait(b, 20)
    for _ in range(13):
        b.space.unplug()
        pass_time(0.3, "down")
        b.space.plug()
        pass_time(0.3, "up")
    finish(program, 1000)
    assert marks.by_number() == once_each(1000)
    assert "event=node_dead" not in three.gcs.err
    leave(program)


def test_nodes_that_only_others_reach_go_on(wires, marks):
    """The GCS's port is blocked, and nothing else; the head's raylet is on its machine."""
    head, a, b = wires.add("hub", "--head"), wires.add("a"), wires.add("b")
    wires.all_see()
    program = a.driver()
    for node in (a, b):
        node.space.block(wires.address.split(":")[1])
    program.say(f"mark 200 5000 {marks.path}")
    pass_time(SILENCE_S + 3, "more than the silence of the dead")
    finish(program, 200)
    assert "event=node_dead" not in wires.gcs.err and "event=cut_off" not in wires.gcs.err
    assert counts(ask(program, "needing 2 0 b=1", NODES)) == {b.id: 2}
    late = wires.add("c")  # news of it come by the head's
    wires.all_see()
    assert counts(ask(program, "needing 2 0 c=1", NODES)) == {late.id: 2}
    os.kill(b.pid, signal.SIGSTOP)  # dead for the others, and who is to vouch for it?
    wait_until(lambda: "event=node_dead" in wires.gcs.err or None, (SILENCE_S + 2) * slow(), "b is dead")
    wait_until(lambda: len(a.others()) == 2 or None, 5 * slow(), "a knows")
    os.kill(b.pid, signal.SIGCONT)
    wait_until(lambda: b.program.process.poll() is not None or None, 20 * slow(), "b ends itself")
    assert b.program.wait() == 3 and "declared dead" in b.program.err
    wires.nodes.remove(b)
    b.seen.close()
    a.space.unblock()
    wait_until(lambda: "event=answers_again" in a.log() or None, 20 * slow(), "a reaches the GCS again")
    assert len(a.others()) == len(head.others()) == 2
    leave(program)


def reset(space, which):
    """Ends all connections that match by RST; how many there were."""
    done = subprocess.run([*space.enter, "ss", "-K", "-Htn", "state", "established", f"( {which} )"], check=True,
                          capture_output=True, text=True, timeout=60)
    if "not supported" in done.stderr:
        pytest.skip(f"this kernel ends no connections for ss -K: {done.stderr.strip()}")
    return len(done.stdout.splitlines())


def test_resets_lose_and_double_nothing(three, marks):
    a, b, c = three.nodes
    program = a.driver()
    n = 100000 // slow()
    ask(program, "hold 1 0 a=1")  # one CPU of five is here: most run elsewhere
    program.say(f"mark {n} {20 * slow()} {marks.path}")
    started, n_resets = time.monotonic(), 0
    while f"ok {n}" not in program.out:
        last = time.monotonic()
        n_resets += reset(a.space, f"dst {b.space.address} or dst {c.space.address}")
        wait_until(lambda: time.monotonic() - last >= 0.1 or f"ok {n}" in program.out or None, 10)
        assert "error" not in program.out and program.process.poll() is None, program
        assert last - started < 120 * slow(), (program, marks.by_node(), three.cluster.state())
    assert marks.by_number() == once_each(n)
    assert len(marks.by_node()) > 1  # where they ran is the policy's to say
    assert n_resets >= 5, n_resets
    assert all(node.program.process.poll() is None for node in three.nodes)
    program.kill()


def test_resets_of_transfers(three):
    a, b, _ = three.nodes
    program = a.driver()
    mine = ask(program, "put 20000000 1")
    total = ask(program, f"get {mine}", r"sum (\d+)")
    begin, n_resets = time.monotonic(), 0
    while n_resets < 5:
        ref = ask(program, "make 20000000 1 b=1")
        before = len(program.out)
        program.say(f"pass {ref} 0 c=1")
        program.say(f"get {ref}")
        while len(sums := re.findall(r"^sum .*?(\d+)\n", program.out[before:], re.M)) < 2:
            n_resets += reset(b.space, f"sport = :{b.object_port}")
            assert "error" not in program.out, program
            assert time.monotonic() - begin < 60 * slow(), (n_resets, program, three.cluster.state())
        assert sums == [total, total]
        ask(program, f"drop {ref}")
    leave(program)


def test_what_many_read_moves_once(three):
    """To each machine, whoever there asks, for whatever."""
    a, b, _ = three.nodes
    program = a.driver()
    ask(program, "share %s 4 b=1" % ask(program, "put 200000 1"), r"sum (\w+ \d+)")  # the program has come, too
    size = 20_000_000
    mine = ask(program, f"put {size} 1")
    total = ask(program, f"get {mine}", r"sum (\d+)")
    before = b.space.received()
    for n in (16, 8):
        assert ask(program, f"share {mine} {n} b=1", r"sum (\w+ \d+)") == f"{b.id} {total}"
    assert int(ask(program, f"inside {mine} 0 b=1")) == int(total) >> 1
    assert size < b.space.received() - before < 1.2 * size
    leave(program)


@pytest.mark.parametrize("differs", ["token", "cluster"])
def test_clusters_do_not_mix(cluster, network, wires, differs):
    """Another cluster's raylet gets the address and the port of one of ours that died."""
    a, b = wires.add("a"), wires.add("b")
    wires.all_see()
    other = Wires(cluster, network, token="another" if differs == "token" else TOKEN)
    program = a.driver()
    assert counts(ask(program, "needing 1 0 b=1", NODES)) == {b.id: 1}
    b.kill()
    c = other.add("c", f"--node-manager-port={b.node_port}", space="b", resources="b")
    ask(program, "hold 1 0 b=1")
    says = "RAY_AUTH_TOKEN" if differs == "token" else "this is another cluster than the caller's"
    wait_until(lambda: re.search(f"event=no_session .*{says}", a.log()), 20 * slow(), "a is refused")
    wait_until(lambda: not a.others() or None, 20 * slow(), "b is dead")
    assert sum(counts(ask(program, "where 20 0", NODES)).values()) == 20
    assert not c.others() and not cluster.zygotes(c.program)
    program.kill()
    other.close()


def test_a_killed_driver_leaves_no_worker(three):
    program = three.nodes[0].driver()
    for name in "abc":
        ask(program, f"hold 2 0 {name}=1")
    wait_until(lambda: len(re.findall(r"\) held \d+ ", program.out)) == 6 or None, 20 * slow(), "six run")
    assert len(three.cluster.workers()) >= 6
    program.kill()
    wait_until(lambda: not three.cluster.workers() and not three.cluster.zygotes() or None, GONE_S * slow(),
               "no worker is left")


@pytest.fixture
def started(cluster, network):
    """Nodes that `ray start` has made: a head at a, one at b."""
    n = Nodes(cluster)
    ready = []

    def start(name, *args):
        before = set(n.sessions())
        s = network.spaces[name]
        n.ray("start", f"--node-ip-address={s.address}", "--num-cpus=2", "--object-store-memory=16777216",
              f"--node-name={name}", f"--temp-dir={n.temp(name)}", f'--resources={{"{name}": 100}}', *args,
              prefix=s.enter)
        folder, = set(n.sessions()) - before
        ready.append(StartedNode(n, folder))
        return ready[-1]
    try:
        head = start("a", "--head", "--port=0")
        yield n, head, start("b", f"--address={head.address}")
    finally:
        for node in ready:
            try:
                os.kill(node.supervisor, signal.SIGTERM)
            except ProcessLookupError:
                pass
        wait_until(lambda: not n.at_work() and not cluster.named("ray::supervisor") or None, 20 * slow(), "they end")
        n.close()


def driver_of(nodes, node, space):
    program = nodes.cluster.start(*space.enter, nodes.cluster.program("machines"),
                                  env={"RAY_ADDRESS": str(node.folder)})
    program.say("init")
    program.expect(r"^ok \d+$")
    return program


def states(nodes, head, space):
    """Of each node that was: its name and how it is."""
    out = nodes.ray("list", "nodes", "--format=json", f"--address={head.address}", prefix=space.enter).stdout
    return sorted((n["node_name"], n["state"], n["node_id"][:8]) for n in json.loads(out))


def test_a_node_that_is_cut_off_ends_and_comes_again(started, network, marks):
    nodes, head, b = started
    program = driver_of(nodes, head, network.spaces["a"])
    _, (_, _, first) = states(nodes, head, network.spaces["a"])
    old = b.daemon("raylet")
    program.say(f"retry 200 20000 {marks.path}")
    wait_until(lambda: marks.by_node()[first] >= 5 or None, 30 * slow(), "tasks run at b")
    network.spaces["b"].unplug()
    finish(program, 200)  # while it is still away
    assert set(marks.by_number()) == set(range(200))
    twice = {number for number, n in marks.by_number().items() if n > 1}
    assert twice <= {int(number) for number, node in marks.lines() if node == first}
    assert ("b", "DEAD", first) in states(nodes, head, network.spaces["a"])
    assert b.daemon("raylet") == old  # nobody could tell it
    network.spaces["b"].plug()
    wait_until(lambda: ("b", "ALIVE") in [s[:2] for s in states(nodes, head, network.spaces["a"])] or None, 30 * slow(),
               "b comes again")
    assert b.daemon("raylet") != old
    assert "this node was declared dead" in b.log("raylet.err")  # says the GCS, or node 1
    again, = (node for name, state, node in states(nodes, head, network.spaces["a"]) if (name, state) == ("b", "ALIVE"))
    assert counts(ask(program, "needing 4 0 b=1", NODES, timeout=40)) == {again: 4}
    leave(program)


def test_a_killed_raylet(started, network):
    nodes, head, b = started
    program = driver_of(nodes, head, network.spaces["a"])
    held = ask(program, "hold 1 0 b=1")
    worker = int(program.expect(r"\) held (\d+) ").group(1))
    program.say("where 100 20000")
    gone = os.pidfd_open(worker)
    os.kill(b.daemon("raylet"), signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: select.select([gone], [], [], 0)[0], GONE_S * slow(), "its worker is gone")
    os.close(gone)
    wait_until(lambda: states(nodes, head, network.spaces["a"])[1][:2] == ("b", "DEAD") or None,
               HEARD_S * slow() - (time.monotonic() - killed), "the head knows")
    answer = program.expect(r"^nodes (.*)$", timeout=40)
    assert sum(counts(answer.group(1)).values()) == 100
    program.say(f"await {held}")
    program.expect(r"^error \d+ .*node", timeout=20)
    leave(program)
