# SPDX-License-Identifier: Apache-2.0
"""Several raylets of one cluster: they register with gcs_server, hear of each other, leave, die, and outlive it."""
import signal
import socket
import subprocess
from pathlib import Path

import grpc
import pytest
from conftest import build_dir, slow, wait_until
from test_gcs import JOB, LINK, NODE, TOKEN, Gcs, first, message, parse, redis_cli
from test_idle import tell_the_machine
from test_jobs import ask, facts, leave

DEAD = 3  # the exit status of a raylet that was declared dead


class NodesGcs(Gcs):
    """With what the raylets of a test say of it."""

    def states(self):
        """{node id in hex: (is it alive, why not)}"""
        return {first(n, 1).hex(): (first(n, 7, 0) == 0, first(n, 101).decode())
                for n in parse(self.call(NODE + "GetAllNodeInfo")).get(2, [])}

    def jobs(self):
        """{number: has it ended}"""
        return {int.from_bytes(first(j, 1), "little"): first(j, 2, 0) == 1
                for j in parse(self.call(JOB + "GetAllJobInfo")).get(2, [])}


class Raylet:
    """A node of its own session folder on this machine."""

    def __init__(self, cluster, gcs, *options, num_cpus=2, token=TOKEN, wait=True, **env):
        tell_the_machine(cluster)  # it measures nothing meanwhile
        self.cluster, self.gcs = cluster, gcs
        self.program = cluster.start(
            build_dir() / "bin" / "raylet", f"--gcs-address=127.0.0.1:{gcs.port}", "--ready-fd=1",
            f"--num-cpus={num_cpus}", *options, env={"RAY_AUTH_TOKEN": token, **env})
        self.pid = self.program.pid
        if wait:
            self.ready()

    def ready(self):
        self.session = Path(self.program.expect(r"^(/.*)$").group(1))
        node = self.program.expect(r"^node ([0-9a-f]{56}) (\d+) (\d+) (\d+)$")
        self.id, self.number, self.port = node[1], int(node[2]), int(node[3])
        return self

    def driver(self, driver="jobs", **options):
        program = self.cluster.start(driver, env={"RAY_ADDRESS": self.session}, **options)
        program.say("init")
        program.expect(r"^ok \d+$")
        return program

    def log(self):
        return (self.session / "logs" / "raylet.err").read_text()

    def stop(self):
        self.program.kill(signal.SIGTERM)
        assert self.program.wait() == 0, repr(self.program)


@pytest.fixture(params=["memory", "redis"])
def served(request):
    """A GCS of either kind."""
    g = NodesGcs()
    if request.param == "redis":
        g.start_redis()
        g.start()
    else:
        g.start("--memory", redis=False)
    yield g
    g.close()


@pytest.fixture
def lasting():
    """A GCS that can be killed and started again."""
    g = NodesGcs()
    g.start_redis()
    yield g.start()
    g.close()


def seen(driver):
    """What a driver sees of the cluster: nodes, CPUs, free ones."""
    return tuple(map(int, ask(driver, "cluster", r"cluster nodes (\d+) cpus (\d+) free (\d+)")))


def see(driver, *expected):
    """Nodes, CPUs, and perhaps free ones: a driver keeps idle leases."""
    wait_until(lambda: seen(driver)[:len(expected)] == expected, 20 * slow(), f"{expected} is seen")


def stop_all(cluster, *raylets):
    for r in raylets:
        r.stop()
    cluster.all_gone()


def test_they_see_each_other(cluster, served):
    a = Raylet(cluster, served, "--head", "--node-name=head-node")
    driver = a.driver()
    assert seen(driver) == (1, 2, 2)
    b = Raylet(cluster, served, "--resource=gadget:20000", num_cpus=3)
    see(driver, 2, 5, 5)
    c = Raylet(cluster, served, num_cpus=4)
    see(driver, 3, 9, 9)
    assert len({a.number, b.number, c.number}) == 3
    other = c.driver()
    see(other, 3, 9, 9)
    ask(other, "sleep 3")
    see(driver, 3, 9, 6)
    rows = {first(n, 1).hex(): n for n in parse(served.call(NODE + "GetAllNodeInfo"))[2]}
    assert first(rows[a.id], 12) == b"head-node" and first(rows[a.id], 25) == 1
    assert first(rows[b.id], 12) == b"127.0.0.1" and first(rows[b.id], 5) == b.port
    assert {first(r, 1) for r in parse(rows[b.id])[11]} == {b"CPU", b"gadget"}
    channel = grpc.insecure_channel(f"127.0.0.1:{b.port}", options=[("grpc.enable_http_proxy", 0)])
    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert health(b"", metadata=[("authorization", f"Bearer {TOKEN}")], timeout=20) == message((1, 1))
    with pytest.raises(grpc.RpcError) as caught:
        health(b"", metadata=[("authorization", "Bearer wrong")], timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    channel.close()
    b.stop()  # heard of at once
    see(driver, 2, 6, 3)
    assert served.states()[b.id] == (False, "it said good-bye")
    leave(driver)
    other.kill()
    stop_all(cluster, a, c)


def test_one_that_is_killed_is_dead_after_six_seconds(cluster, served):
    a, b = Raylet(cluster, served), Raylet(cluster, served)
    driver, lost = a.driver(), b.driver()
    see(driver, 2, 4, 4)
    job, lost_job = facts(driver)[0], facts(lost)[0]
    assert served.jobs() == {job: False, lost_job: False}
    b.program.kill()
    see(driver, 1, 2, 2)
    assert served.states()[b.id] == (False, "it said nothing for 6 s")
    wait_until(lambda: served.jobs() == {job: False, lost_job: True}, 10 * slow())
    lost.kill()
    leave(driver)
    wait_until(lambda: served.jobs()[job], 10 * slow())
    stop_all(cluster, a)


def test_one_that_was_declared_dead_ends_itself(cluster, served):
    a, b = Raylet(cluster, served), Raylet(cluster, served)
    driver = a.driver()
    see(driver, 2, 4, 4)
    b.program.kill(signal.SIGSTOP)
    see(driver, 1, 2, 2)
    log = (b.session / "logs" / "raylet.err").open()
    b.program.kill(signal.SIGCONT)
    assert b.program.wait() == DEAD
    cluster.announce("status=3")
    assert "declared dead: it said nothing for 6 s" in b.program.err
    assert "event=ends status=3" in log.read()
    log.close()
    leave(driver)
    stop_all(cluster, a)


def test_they_outlive_the_gcs(cluster, lasting):
    a, b = Raylet(cluster, lasting), Raylet(cluster, lasting)
    old = a.driver()
    see(old, 2, 4, 4)
    numbers = [facts(old)[0]]
    for _ in range(3):
        lasting.kill(lasting.server)
        assert ask(old, "tasks 100") == "100"  # whoever has a lease needs no GCS
        late = cluster.start("jobs", env={"RAY_ADDRESS": b.session})
        late.say("init")
        lasting.start()
        late.expect(r"^ok \d+$")
        numbers.append(facts(late)[0])
        assert ask(late, "task") == "1042"
        leave(late)
    assert sorted(set(numbers)) == numbers
    see(old, 2, 4)
    assert lasting.states() == {a.id: (True, ""), b.id: (True, "")}
    lasting.server.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):  # longer than the silence that means death
        lasting.server.wait(8)
    lasting.server.send_signal(signal.SIGCONT)
    c = Raylet(cluster, lasting)
    see(old, 3, 6)
    assert all(alive for alive, _ in lasting.states().values())
    assert "event=does_not_answer" in a.log() and "event=answers_again" in a.log()
    assert c.number not in (a.number, b.number)
    leave(old)
    wait_until(lambda: all(lasting.jobs().values()), 10 * slow())
    stop_all(cluster, a, b, c)


def test_process_numbers_are_located(cluster, lasting):
    """A raylet has numbers before it needs them, so that workers start while the GCS is away."""
    def locate(process):
        try:
            return first(lasting.call(LINK + "Locate", message((1, process))), 1).hex()
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.NOT_FOUND
            return None
    a = Raylet(cluster, lasting, num_cpus=140)
    wait_until(lambda: locate(a.number + 1) == a.id, 10 * slow())
    b = Raylet(cluster, lasting)
    wait_until(lambda: locate(b.number + 256) == b.id, 10 * slow())
    assert locate(a.number) == a.id and locate(b.number) == b.id
    assert locate(b.number + 257) is None
    driver = a.driver()
    assert ask(driver, "sleep 140", timeout=60) == "140"  # more than half of a block
    wait_until(lambda: locate(b.number + 257) == a.id, 10 * slow())
    driver.kill()
    stop_all(cluster, a, b)


def test_numbers_that_redis_forgot_are_not_given_again(cluster, lasting):
    """Its file was an older one: the raylet that lives says what it holds, and registers again."""
    a = Raylet(cluster, lasting)
    old = a.driver()
    job = facts(old)[0]
    assert ask(old, "tasks 10") == "10"
    lasting.kill(lasting.server)
    lasting.kill(lasting.redis)
    lasting.start_redis()
    wait_until(lambda: redis_cli(lasting, "PING") == b"PONG\n", 10 * slow())
    redis_cli(lasting, "DEL", *(f"RAYdefault@{table}" for table in ("NODE", "JOB", "PROCESS", "COUNTER")))
    lasting.start()
    late = a.driver()
    assert facts(late)[0] > job
    assert ask(late, "task") == "1042"
    b = Raylet(cluster, lasting)
    assert b.number > a.number + 256
    for process in (a.number, a.number + 1, a.number + 256):  # their rows are back, too
        assert first(lasting.call(LINK + "Locate", message((1, process))), 1).hex() == a.id
    see(old, 2, 4)
    assert {i: alive for i, (alive, _) in lasting.states().items()} == {a.id: True, b.id: True}
    leave(old)
    leave(late)
    stop_all(cluster, a, b)


def test_a_wrong_token(cluster, served):
    r = Raylet(cluster, served, token="wrong", wait=False)
    assert r.program.wait() == 1
    cluster.announce("status=1")
    assert "RAY_AUTH_TOKEN" in r.program.err and "wrong" not in r.program.err.replace("a wrong", "")
    assert r.program.out == ""
    cluster.all_gone()
    missing = Raylet(cluster, served, wait=False, token="", HOME=cluster.path)
    assert missing.program.wait() == 1
    assert "RAY_AUTH_TOKEN" in missing.program.err
    cluster.all_gone()


def test_the_gcs_comes_late(cluster):
    """The port is free, then it is the GCS's."""
    gcs = NodesGcs()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        gcs.port = s.getsockname()[1]
    r = Raylet(cluster, gcs, wait=False)
    wait_until(lambda: f"waits for the GCS at 127.0.0.1:{gcs.port}" in r.program.err, 20 * slow())
    early = cluster.start("jobs", env={"RAY_ADDRESS": wait_until(cluster.sessions, 5)[0]})
    early.say("init")
    assert r.program.out == ""
    wait_until(lambda: "has not let this program in for 2 s" in early.err or None, 20 * slow())
    gcs.start("--memory", redis=False)
    r.ready()
    early.expect(r"^ok \d+$")
    assert ask(early, "task") == "1042"
    leave(early)
    stop_all(cluster, r)
    waiting = Raylet(cluster, gcs, wait=False)
    waiting.ready()
    gcs.kill(gcs.server)
    waiting.program.kill(signal.SIGTERM)  # nobody hears the good-bye
    assert waiting.program.wait() == 0
    never = Raylet(cluster, gcs, wait=False)
    wait_until(lambda: "waits for the GCS" in never.program.err, 20 * slow())
    never.program.kill(signal.SIGTERM)
    assert never.program.wait() == 0
    cluster.all_gone()
    gcs.close()


def test_another_cluster_at_the_same_place(cluster):
    gcs = NodesGcs()
    gcs.start("--memory", redis=False)
    r = Raylet(cluster, gcs)
    gcs.kill(gcs.server)
    gcs.start("--memory", redis=False)
    assert r.program.wait() == DEAD
    cluster.announce("status=3")
    assert "another cluster" in r.program.err
    cluster.all_gone()
    gcs.close()


def test_options_that_cannot_be(cluster):
    def refused(*options):
        program = cluster.start(build_dir() / "bin" / "raylet", *options, env={"RAY_AUTH_TOKEN": TOKEN})
        assert program.wait() in (1, 2)
        return program.err
    assert "HOST:PORT" in refused("--gcs-address=nonsense")
    assert "HOST:PORT" in refused("--gcs-address=host:0")
    assert "HOST:PORT" in refused("--gcs-address=::1:1")
    assert "--gcs-address" in refused("--standalone", "--node-name=x")
    assert "must be an address" in refused("--gcs-address=127.0.0.1:1", "--node-ip-address=here")
    assert "not a port" in refused("--gcs-address=127.0.0.1:1", "--node-manager-port=70000")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        taken = refused("--gcs-address=127.0.0.1:1", f"--node-manager-port={s.getsockname()[1]}")
    assert "open the port for other nodes" in taken
    cluster.all_gone()
