# SPDX-License-Identifier: Apache-2.0
"""`ray start`, `ray stop` and what a supervisor does in between, with real processes on loopback."""
import datetime
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import as_user, build_dir, slow, wait_until

HERE = "127.0.0.1"
LEFT = {"logs", "supervisor.pid"}  # of a node that has ended


def free_port():
    with socket.socket() as s:
        s.bind((HERE, 0))
        return s.getsockname()[1]


def live_processes():
    """(pid, parent, name) of each; redis-server writes over its environment, so the cluster's mark does not show it."""
    for entry in os.listdir("/proc"):
        try:
            text = Path(f"/proc/{entry}/stat").read_text(errors="replace") if entry.isdigit() else ""
        except OSError:
            continue
        if text:
            state, parent = text[text.rindex(")") + 2:].split()[:2]
            if state not in "ZX":
                yield int(entry), int(parent), text[text.index("(") + 1:text.rindex(")")]


class Node:
    """A node that was started: where its session is, and who its daemons are."""

    def __init__(self, nodes, folder):
        self.nodes, self.folder = nodes, folder
        self.file = json.loads((folder / "node.json").read_text())
        self.supervisor = self.file["supervisor_pid"]
        self.address = self.file["gcs_address"]

    def daemons(self):
        return {name: pid for pid, parent, name in live_processes() if parent == self.supervisor}

    def daemon(self, name):
        return self.daemons().get(name)

    def log(self, name="supervisor.err"):
        return (self.folder / "logs" / name).read_text(errors="replace")


class Nodes:
    """A home folder with its token, and temp folders of nodes."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.home = cluster.path / "home"
        self.home.mkdir()
        self.temps = [cluster.temp]
        self.ended_by_kill = False

    def ray(self, *args, status=0, timeout=60, env=None, prefix=(), binary=None):
        """A command to its end."""
        argv = [*prefix, str(binary or build_dir() / "bin/ray"), *map(str, args)]
        env = self.cluster.env(**{"HOME": self.home, **(env or {})})
        done = subprocess.run(argv, env=env, cwd=self.cluster.path,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout * slow())
        assert done.returncode == status, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done

    def temp(self, name):
        folder = self.cluster.path / name
        if folder not in self.temps:
            folder.mkdir()
            self.temps.append(folder)
        return folder

    def sessions(self, temp=None):
        return sorted(p for t in ([temp] if temp else self.temps) for p in t.iterdir() if p.name.startswith("session_2"))

    def start(self, *args, temp=None, **options):
        before = set(self.sessions())
        where = [f"--temp-dir={temp}"] if temp else []
        self.ray("start", f"--node-ip-address={HERE}", "--num-cpus=2", "--object-store-memory=16777216", *where, *args,
                 **options)
        folder, = set(self.sessions()) - before
        return Node(self, folder)

    def head(self, *args, **options):
        return self.start("--head", "--port=0", *args, **options)

    def join(self, head, name, *args, **options):
        return self.start(f"--address={head.address}", f"--node-name={name}", *args, temp=self.temp(name), **options)

    def list(self, what, **options):
        return json.loads(self.ray("list", what, "--format=json", **options).stdout)

    def states(self):
        """{node name: is it alive}"""
        return {n["node_name"]: n["state"] == "ALIVE" for n in self.list("nodes")}

    def logs(self):
        return "".join(f"--- {f}\n{f.read_text(errors='replace')}" for s in self.sessions() for f in s.glob("logs/*"))

    def at_work(self):
        """Who has a session as its folder: all daemons."""
        found = []
        for pid, _, name in live_processes():
            try:
                folder = Path(os.readlink(f"/proc/{pid}/cwd"))
            except OSError:
                continue
            if not {folder, folder.parent}.isdisjoint(self.sessions()):  # redis-server: in one below
                found.append((pid, name))
        return found

    def all_gone(self):
        """No process, and of the folders only the logs."""
        self.cluster.processes_gone(5)
        wait_until(lambda: not self.at_work() or None, 5 * slow(), "nobody works in a session folder")
        for session in self.sessions():
            left = {p.name for p in session.iterdir()}
            if not self.ended_by_kill:
                assert left <= LEFT, (session, left)
            else:
                assert not list((session / "sockets").glob("*") if (session / "sockets").is_dir() else []), left
        for temp in self.temps:
            assert self.ended_by_kill or not (temp / "ray_current_cluster").exists()

    def close(self):
        text = self.logs()
        for line in text.splitlines():
            assert "level=broken" not in line and "Sanitizer" not in line and "runtime error" not in line, line
        for session in self.sessions():
            shutil.rmtree(session)


@pytest.fixture
def nodes(cluster):
    n = Nodes(cluster)
    yield n
    for program in cluster.programs:
        if program.process.poll() is None:  # of a test that failed
            program.kill(signal.SIGTERM)
    for supervisor in cluster.named("ray::supervisor"):
        os.kill(supervisor.pid, signal.SIGTERM)
    try:
        cluster.processes_gone(30)
        wait_until(lambda: not n.at_work() or None, 5 * slow(), "nobody works in a session folder")
    finally:
        for pid, _ in n.at_work():
            os.kill(pid, signal.SIGKILL)
    n.close()


def test_a_head_starts_and_stops_and_leaves_its_logs(nodes):
    done = nodes.ray("start", "--head", f"--port={free_port()}", f"--node-ip-address={HERE}", "--num-cpus=2")
    folder, = nodes.sessions()
    head = Node(nodes, folder)
    assert f"ray start --address={head.address}" in done.stdout
    assert "auth_token" in done.stdout
    assert "RAY_TMPDIR" not in done.stdout
    assert done.stderr == ""
    assert head.file["is_ready"] and head.file["is_head"] and len(head.file["node_id"]) == 56
    assert set(head.daemons()) == {"redis-server", "gcs_server", "raylet"}
    for pid in head.daemons().values():
        assert os.getpgid(pid) == pid  # ^C at a terminal is the supervisor's
    assert (nodes.cluster.temp / "ray_current_cluster").read_text() == head.address
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("auth_token", "redis.conf", "node.json", "sockets/redis", "sockets/raylet"):
        assert (folder / name).stat().st_mode & 0o077 == 0, name
    done = nodes.ray("stop")
    assert "Stopped 1 of 1" in done.stdout
    assert not nodes.cluster.processes() and not nodes.at_work()  # when it returns, not soon after
    nodes.all_gone()
    assert "part=raylet" in (folder / "logs/supervisor.err").read_text()
    assert "No node of yours" in nodes.ray("stop").stdout


@pytest.fixture
def public():
    """Where other users can run `ray`, with a folder `home` that is theirs."""
    folder = Path(tempfile.mkdtemp(prefix="ray-public-", dir="/tmp"))
    shutil.copytree(build_dir() / "bin", folder / "bin")
    for path in (folder, folder / "bin", *(folder / "bin").iterdir()):
        path.chmod(0o755)
    (folder / "home").mkdir()
    (folder / "home").chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_another_user_neither_sees_nor_stops_them(public, nodes):
    runner = as_user(65534)
    temp = public / "temp"
    temp.mkdir()
    temp.chmod(0o1777)
    nodes.temps.append(temp)
    head = nodes.head(temp=temp)
    done = nodes.ray("stop", f"--temp-dir={temp}", prefix=runner, binary=public / "bin/ray")
    assert "No node of yours" in done.stdout
    assert len(head.daemons()) == 3
    done = nodes.ray("status", f"--address={head.address}", prefix=runner, binary=public / "bin/ray", status=1,
                     env={"HOME": public / "home"})
    assert "there is no token" in done.stderr
    nodes.ray("stop", f"--temp-dir={temp}")
    nodes.all_gone()


def test_programs_join_the_node_with_auto(nodes):
    nodes.head()
    program = nodes.cluster.start("hold", env={"RAY_ADDRESS": "auto"})
    program.say("init 0")
    program.expect(r"^ok \d+$")
    program.say("task")
    program.expect(r"^ok 42$")
    program.say("shutdown")
    program.expect(r"^ok 0$")
    program.say("exit 0")
    assert program.wait() == 0
    nodes.ray("stop")
    nodes.all_gone()


@pytest.mark.parametrize("how", ["verbose", "quiet"])
def test_steps_are_said_if_wanted(nodes, how):
    flags = ["--verbose"] if how == "verbose" else []
    done = nodes.ray("start", "--head", "--port=0", f"--node-ip-address={HERE}", *flags)
    said = [line for line in done.stdout.splitlines() if line.startswith("starting ")]
    assert said == (["starting redis-server", "starting gcs_server", "starting raylet"] if flags else [])
    nodes.ray("stop")


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_block_stays_until_it_is_told_to_end(nodes, sig):
    program = nodes.cluster.start(build_dir() / "bin/ray", "start", "--head", "--port=0", f"--node-ip-address={HERE}",
                                  "--block", env={"HOME": nodes.home}, start_new_session=True)
    program.expect("ray start --address=")
    assert program.process.poll() is None
    os.killpg(program.pid, sig)  # as the terminal does
    assert program.wait() == 0
    nodes.all_gone()


def test_block_ends_badly_with_its_raylet(nodes):
    program = nodes.cluster.start(build_dir() / "bin/ray", "start", "--head", "--port=0", f"--node-ip-address={HERE}",
                                  "--block", env={"HOME": nodes.home})
    program.expect("ray start --address=")
    raylet, = (pid for pid, parent, name in live_processes() if parent == program.pid and name == "raylet")
    os.kill(raylet, signal.SIGKILL)
    assert program.wait() == 1
    nodes.all_gone()


# --- the token ---

def test_a_head_makes_a_token_once_and_private(nodes):
    path = nodes.home / ".ray/auth_token"
    first = nodes.head()
    token = path.read_text()
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert path.stat().st_mode & 0o777 == 0o600
    assert nodes.ray("get-auth-token").stdout == token  # no newline, as Ray
    second = nodes.head(temp=nodes.temp("second"))
    assert path.read_text() == token
    assert token not in "".join(Path(f"/proc/{p.pid}/cmdline").read_bytes().decode() for p in nodes.cluster.processes())
    nodes.ray("health-check", f"--address={first.address}")
    nodes.ray("health-check", f"--address={second.address}")
    nodes.ray("stop", "--force")
    nodes.ray("stop", "--force", f"--temp-dir={nodes.temp('second')}")
    nodes.all_gone()


def test_of_heads_that_start_at_once_one_makes_the_token(nodes):
    programs = [nodes.cluster.start(build_dir() / "bin/ray", "start", "--head", "--port=0", f"--node-ip-address={HERE}",
                                    env={"HOME": nodes.home}) for _ in range(4)]
    assert [p.wait() for p in programs] == [0] * 4, programs
    assert sum("(new)" in p.out for p in programs) == 1
    assert [f.name for f in (nodes.home / ".ray").iterdir()] == ["auth_token"]
    assert "Stopped 4 of 4" in nodes.ray("stop").stdout
    nodes.all_gone()


def test_get_auth_token_without_one(nodes):
    done = nodes.ray("get-auth-token", status=1)
    assert "--generate" in done.stderr and done.stdout == ""
    token = nodes.ray("get-auth-token", "--generate").stdout
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert nodes.ray("get-auth-token", "--generate").stdout == token


def test_a_token_of_the_environment_is_kept_to_itself(nodes):
    head = nodes.head(env={"RAY_AUTH_TOKEN": "of-the-environment"})
    assert not (nodes.home / ".ray").exists()
    for pid in head.daemons().values():
        assert b"of-the-environment" not in Path(f"/proc/{pid}/environ").read_bytes()
    nodes.ray("health-check")  # the session knows it
    nodes.ray("health-check", f"--address={head.address}", env={"RAY_AUTH_TOKEN": "of-the-environment"})
    done = nodes.ray("health-check", f"--address={head.address}", status=1, env={"RAY_AUTH_TOKEN": "another"})
    assert "RAY_AUTH_TOKEN" in done.stderr, done.stderr
    done = nodes.ray("health-check", f"--address={head.address}", status=1)
    assert "there is no token" in done.stderr and "get-auth-token" in done.stderr
    nodes.ray("stop")
    nodes.all_gone()


# --- deaths ---

def wait_new(node, name, old):
    pid = wait_until(lambda: (lambda p: p if p not in (None, old) else None)(node.daemon(name)), 10 * slow(),
                     f"a new {name}")
    return pid


@pytest.mark.parametrize("name", ["gcs_server", "redis-server"])
def test_a_killed_part_is_started_again_where_it_was(nodes, name):
    head = nodes.head()
    others = {k: v for k, v in head.daemons().items() if k != name}
    for _ in range(3):
        old = head.daemon(name)
        os.kill(old, signal.SIGKILL)
        wait_new(head, name, old)
        nodes.ray("health-check", f"--address={head.address}")
    assert {k: v for k, v in head.daemons().items() if k != name} == others
    nodes.ray("stop")
    nodes.all_gone()


def test_who_fails_again_and_again_is_started_ever_later(nodes):
    head = nodes.head(env={"RAY_restart_delay_ms": 1, "RAY_restart_delay_max_ms": 40})
    (head.folder / "redis.conf").write_text("no such option\n")
    os.kill(head.daemon("redis-server"), signal.SIGKILL)

    def starts():
        lines = [line for line in head.log().splitlines() if "event=start part=redis-server" in line]
        times = [datetime.datetime.fromisoformat(line.split()[0][3:-1]) for line in lines]
        return len(times) > 8 and times
    times = wait_until(starts, 20 * slow(), "8 attempts")
    assert (times[8] - times[7]).total_seconds() >= 0.039  # the first took 1 ms
    nodes.ray("stop")
    nodes.all_gone()


def test_the_raylets_end_is_the_nodes(nodes):
    head = nodes.head()
    os.kill(head.daemon("raylet"), signal.SIGKILL)
    nodes.all_gone()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_supervisor_ends_the_node(nodes, sig):
    head = nodes.head()
    os.kill(head.supervisor, sig)
    nodes.all_gone()


def test_signals_at_any_moment_of_the_end_change_nothing(nodes):
    head = nodes.head()
    gone = os.pidfd_open(head.supervisor)
    while not select.select([gone], [], [], 0)[0]:
        signal.pidfd_send_signal(gone, signal.SIGTERM)
    os.close(gone)
    nodes.all_gone()


def test_a_killed_supervisor_takes_the_node_with_it(nodes):
    head = nodes.head()
    program = nodes.cluster.start("hold", env={"RAY_ADDRESS": "auto"})
    program.say("init 0")
    program.expect(r"^ok \d+$")
    os.kill(head.supervisor, signal.SIGKILL)
    wait_until(lambda: nodes.cluster.reap() or not [p for p in nodes.cluster.processes() if p.pid != program.pid] or None,
               5 * slow(), "all but the program are gone")
    program.say("exit 0")
    program.wait()
    nodes.ended_by_kill = True
    nodes.all_gone()
    nodes.head()  # the next one starts all the same
    nodes.ray("stop")


def test_a_stopped_supervisor_is_killed_by_force_and_by_patience(nodes):
    for args in (["--force"], ["--grace-period=0"]):
        head = nodes.head()
        os.kill(head.supervisor, signal.SIGSTOP)
        nodes.ray("stop", *args)
        nodes.all_gone()


def slow_redis(nodes):
    """The environment where redis-server never listens."""
    (nodes.cluster.path / "slow").mkdir()
    redis = nodes.cluster.path / "slow/redis-server"
    redis.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    redis.chmod(0o755)
    return {"HOME": nodes.home, "PATH": f"{redis.parent}:{os.environ['PATH']}"}


def test_ray_start_that_is_interrupted_leaves_nothing(nodes):
    program = nodes.cluster.start(build_dir() / "bin/ray", "start", "--head", "--port=0", "-v", env=slow_redis(nodes))
    program.expect("starting redis-server")
    program.kill(signal.SIGINT)
    program.wait()
    nodes.all_gone()


# --- several nodes ---

def test_a_node_joins_is_seen_and_leaves(nodes):
    head = nodes.head("--node-name=first")
    second = nodes.join(head, "second", '--resources={"disk": 2.5}', "--num-gpus=3", "--memory=1000000",
                        "--labels=region=eu,ray.io/accelerator-type=H100,empty=")
    assert not second.file["is_head"] and second.address == head.address
    assert set(second.daemons()) == {"raylet"}
    assert not (second.folder.parent / "ray_current_cluster").exists()
    rows = {n["node_name"]: n for n in nodes.list("nodes")}
    assert set(rows) == {"first", "second"}
    assert re.search(r'event=node_joined .* name="second"', head.log("gcs_server.err"))
    assert rows["first"]["is_head_node"] and not rows["second"]["is_head_node"]
    for node, row in ((head, rows["first"]), (second, rows["second"])):
        assert row["node_id"] == node.file["node_id"] and row["state"] == "ALIVE" and row["node_ip"] == HERE
        assert row["node_manager_port"] == node.file["node_manager_port"] > 0
    assert rows["second"]["resources_total"] == {"CPU": 2, "disk": 2.5, "GPU": 3, "memory": 1000000}
    free = int(re.search(r"^MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M).group(1)) << 10
    assert 0 < rows["first"]["resources_total"]["memory"] < free + (1 << 30)  # what is free and not for objects
    assert rows["second"]["labels"] == {"region": "eu", "ray.io/accelerator-type": "H100", "empty": ""}
    assert rows["first"]["labels"] == {}
    status = nodes.ray("status").stdout
    assert "2 alive, 0 dead" in status and re.search(r"^  0/4 CPU$", status, re.M), status
    assert re.search(r"^second +127.0.0.1 +- +ALIVE +0/2 CPU, 0/2.5 disk, 0/3 GPU, 0B/976.56KiB memory$", status, re.M), status
    table = nodes.ray("list", "nodes").stdout
    assert table.splitlines()[0].split()[:2] == ["NODE_ID", "NODE_IP"] and len(table.splitlines()) == 3
    nodes.ray("stop", f"--temp-dir={nodes.temp('second')}")
    assert nodes.states() == {"first": True, "second": False}
    nodes.ray("stop")
    nodes.all_gone()


def test_a_head_that_lends_no_cpu(nodes):
    head = nodes.head("--num-cpus=0")
    second = nodes.join(head, "second")
    program = nodes.cluster.start("machines", env={"RAY_ADDRESS": "auto"})
    program.say("init")
    program.expect(r"^ok \d+$")
    program.say("where 20 1000")
    assert program.expect(r"^nodes (.*)$").group(1).strip() == f"{second.file['node_id'][:8]}=20"
    program.say("shutdown")
    program.expect(r"^ok 0$")
    program.say("exit 0")
    assert program.wait() == 0
    nodes.ray("stop", f"--temp-dir={nodes.temp('second')}")
    nodes.ray("stop")
    nodes.all_gone()


def test_a_killed_raylet_is_known_to_be_dead_at_once(nodes):
    """Its supervisor tells the GCS, which else would wait for 6 s of silence."""
    head = nodes.head("--node-name=first")
    second = nodes.join(head, "second")
    os.kill(second.daemon("raylet"), signal.SIGKILL)
    wait_until(lambda: not second.daemons() or None, 5 * slow(), "the node ends")
    wait_until(lambda: "event=end" in second.log() and not nodes.states()["second"], 5 * slow(), "it is known to be dead")
    row, = (n for n in nodes.list("nodes") if n["node_name"] == "second")
    assert row["state_message"] == "its raylet was killed by signal 9 (Killed)"
    nodes.ray("stop")
    nodes.all_gone()


def test_what_the_gcs_knew_is_there_after_its_death_and_redis_s(nodes):
    head = nodes.head("--node-name=first")
    second = nodes.join(head, "second")
    program = nodes.cluster.start("hold", env={"RAY_ADDRESS": second.folder, "RAY_TMPDIR": second.folder.parent})
    program.say("init 0")
    program.expect(r"^ok \d+$")
    before = nodes.list("nodes"), nodes.list("jobs")
    assert len(before[0]) == 2 and [j["status"] for j in before[1]] == ["RUNNING"]
    for names in (["gcs_server"], ["redis-server"], ["gcs_server", "redis-server"]):
        old = head.daemons()
        for name in names:
            os.kill(old[name], signal.SIGKILL)
        for name in names:
            wait_new(head, name, old[name])
        assert (nodes.list("nodes"), nodes.list("jobs")) == before
        program.say("task")
        wait_until(lambda: program.out.count("ok 42"), 10 * slow(), "a task")
    assert head.daemon("raylet") == old["raylet"] and len(second.daemons()) == 1
    program.say("exit 0")
    program.wait()
    wait_until(lambda: nodes.list("jobs")[0]["status"] == "FINISHED", 10 * slow(), "the job's end is known")
    nodes.ray("stop")
    nodes.ray("stop", f"--temp-dir={nodes.temp('second')}")
    nodes.all_gone()


def test_a_node_that_was_declared_dead_joins_again_as_a_new_one(nodes):
    head = nodes.head("--node-name=first")
    second = nodes.join(head, "second")
    nodes.ray("unregister", f"--address={head.address}", f"--node-id={second.file['node_id']}")

    def is_new():
        file = json.loads((second.folder / "node.json").read_text())
        return file["node_id"] != second.file["node_id"] and file
    file = wait_until(is_new, 20 * slow(), "another node id")
    rows = {n["node_id"]: n for n in nodes.list("nodes") if n["node_name"] == "second"}
    assert rows[file["node_id"]]["state"] == "ALIVE" and rows[second.file["node_id"]]["state"] == "DEAD"
    assert json.loads((second.folder / "node.json").read_text())["supervisor_pid"] == second.supervisor
    nodes.ray("stop")
    nodes.ray("stop", f"--temp-dir={nodes.temp('second')}")
    nodes.all_gone()


def test_lists_of_jobs_and_workers(nodes):
    head = nodes.head()
    assert nodes.list("jobs") == [] and nodes.list("workers") == []
    program = nodes.cluster.start("hold", env={"RAY_ADDRESS": "auto"})
    program.say("init 0")
    program.expect(r"^ok \d+$")
    program.say("task")
    program.expect(r"^ok 42$")
    job, = nodes.list("jobs")
    assert job["status"] == "RUNNING" and job["driver_pid"] == program.pid and len(job["job_id"]) == 8
    assert job["driver_ip"] == HERE and job["job"] == int.from_bytes(bytes.fromhex(job["job_id"]), "little")
    workers = nodes.list("workers")
    assert [w["pid"] for w in workers if w["worker_type"] == "DRIVER"] == [program.pid]
    assert {w["pid"] for w in nodes.list("workers", env={"RAY_ADDRESS": head.address})} == {w["pid"] for w in workers}
    done = nodes.ray("list", "workers", "--address=127.0.0.1:1", "--timeout=0.5", status=1)
    assert "no GCS answers at 127.0.0.1:1" in done.stderr
    assert {w["pid"] for w in workers if w["worker_type"] == "WORKER"} <= {p.pid for p in nodes.cluster.workers()}
    program.say("exit 0")
    program.wait()
    wait_until(lambda: nodes.list("jobs")[0]["status"] == "FINISHED", 10 * slow(), "the job's end is known")
    nodes.ray("stop")


def test_rows_of_a_list_are_chosen(nodes):
    head = nodes.head("--num-cpus=1")
    nodes.join(head, "second", "--num-cpus=3", "--memory=0")
    names = lambda *args: [n["node_name"] for n in json.loads(  # noqa: E731
        nodes.ray("list", "nodes", "--format=json", *args).stdout)]
    assert names("--filter", "node_name=SECOND") == ["second"]
    assert names("-f", "node_name!=second", "-f", "state=alive") == [HERE]
    assert names("--filter=is_head_node=true") == [HERE]
    assert names("-f", "resources_total=CPU: 3") == ["second"]
    assert names("-f", "state=DEAD") == []
    done = nodes.ray("list", "nodes", "--limit=1", "--detail")
    assert len(done.stdout.splitlines()) == 2 and "END_TIME_MS" in done.stdout and "1 more" in done.stderr
    for wrong, words in ((("-f", "colour=red"), ("no colour", "node_name")), (("-f", "state"), ("KEY=VALUE",)),
                         (("-f", "!=x"), ("KEY=VALUE",)), (("--limit=-1",), ("--limit must be",)),
                         (("--watch", "--limit=1"), ("leave",)), (("-f", "a=b") * 17, ("16 times",))):
        done = nodes.ray("list", "nodes", *wrong, status=2)
        assert all(w in done.stderr for w in words) and not done.stdout, done.stderr


def test_status_shows_what_is_used(nodes):
    head = nodes.head("--node-name=first")
    second = nodes.join(head, "second")
    program = nodes.cluster.start("jobs", env={"RAY_ADDRESS": second.folder})
    program.say("init")
    program.expect(r"^ok \d+$")
    program.say("sleep 1")
    program.expect(r"^ok 1$")

    def used():
        s = json.loads(nodes.ray("status", "--format=json").stdout)
        return s["resources_total"]["CPU"] - s["resources_available"]["CPU"]
    wait_until(lambda: used() == 1, 10 * slow(), "one CPU is used")
    assert re.search(r"^(first|second) .* 1/2 CPU, 0B/\d+\.\d\dGiB memory$", nodes.ray("status").stdout, re.M)
    program.kill()
    wait_until(lambda: used() == 0, 10 * slow(), "none is used")
    nodes.ray("stop")
    nodes.ray("stop", f"--temp-dir={nodes.temp('second')}")
    nodes.all_gone()


def test_a_wrong_token_is_refused_with_the_remedy(nodes):
    head = nodes.head("--node-name=first")
    for args, env in ((["start", f"--address={head.address}", f"--node-ip-address={HERE}"], {"RAY_AUTH_TOKEN": "wrong"}),
                      (["status", f"--address={head.address}"], {"RAY_AUTH_TOKEN": "wrong"})):
        done = nodes.ray(*args, status=1, env=env)
        assert "RAY_AUTH_TOKEN" in done.stderr and "ray get-auth-token" in done.stderr, done.stderr
    done = nodes.ray("start", f"--address={head.address}", status=1, env={"HOME": nodes.temp("nobody")})
    assert "there is no token" in done.stderr and "ray get-auth-token" in done.stderr, done.stderr
    assert nodes.states() == {"first": True}
    nodes.ray("stop")
    nodes.all_gone()


def test_a_head_that_is_not_there_is_waited_for_and_named(nodes):
    port = free_port()
    done = nodes.ray("start", f"--address={HERE}:{port}", f"--node-ip-address={HERE}", status=1,
                     env={"RAY_AUTH_TOKEN": "x", "RAY_start_timeout_ms": 4000})
    assert "raylet is not ready yet" in done.stderr and f"{HERE}:{port}" in done.stderr, done.stderr
    assert "raylet was not ready within 4000 ms" in done.stderr and "nothing listens there" in done.stderr
    nodes.all_gone()


# --- an external Redis ---

class Redis:
    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.process = subprocess.Popen(
            ["redis-server", "--bind", HERE, "--port", str(self.port), "--dir", folder, "--save", "", "--requirepass",
             "a-password", "--unixsocket", str(folder / "socket")], stdout=subprocess.DEVNULL)
        wait_until(lambda: (folder / "socket").exists(), 10 * slow(), "its socket")

    def say(self, command):
        with socket.create_connection((HERE, self.port)) as s:
            s.sendall(f"AUTH a-password\r\n{command}\r\nQUIT\r\n".encode())
            return b"".join(iter(lambda: s.recv(65536), b"")).decode()

    def keys(self):
        return {line for line in self.say("KEYS *").splitlines() if line.startswith("RAY")}


@pytest.fixture
def redis(tmp_path_factory):
    r = Redis(tmp_path_factory.mktemp("redis"))
    yield r
    r.process.kill()
    r.process.wait()


@pytest.mark.parametrize("way", ["port", "path"])
def test_a_head_on_an_external_redis_keeps_its_cluster(nodes, redis, way):
    where = f"--redis-address=localhost:{redis.port}" if way == "port" else f"--redis-address={redis.folder}/socket"
    env = {"RAY_external_storage_namespace": "mine"}
    one = nodes.head(where, "--redis-password=a-password", env=env)
    assert set(one.daemons()) == {"gcs_server", "raylet"}
    command = Path(f"/proc/{one.supervisor}/cmdline").read_bytes()
    assert b"a-password" not in command and b"redis-password" in command
    nodes.ray("stop")
    assert redis.keys() and all(k.startswith("RAYmine@") for k in redis.keys())  # of which nothing is cleared
    two = nodes.head(where, env={"RAY_REDIS_PASSWORD": "a-password", **env})
    assert two.file["cluster_id"] == one.file["cluster_id"]
    assert [n["state"] for n in nodes.list("nodes")].count("DEAD") == 1
    three = nodes.head(where, "--redis-password=a-password", env=env)  # the cluster has one head: the newest
    wait_until(lambda: not two.daemons() or None, 20 * slow(), "the former head ends")
    assert "another head has taken this cluster over" in two.log()
    assert len(three.daemons()) == 2
    nodes.ray("stop")
    nodes.all_gone()


def test_nodes_go_on_without_a_head_and_find_the_next_one(nodes, redis):
    where = [f"--redis-address={HERE}:{redis.port}", "--redis-password=a-password"]
    head = nodes.head("--node-name=first", *where)
    second = nodes.join(head, "second")
    program = nodes.cluster.start("hold", env={"RAY_ADDRESS": second.folder})
    program.say("init 0")
    program.expect(r"^ok \d+$")
    os.kill(head.supervisor, signal.SIGKILL)
    wait_until(lambda: not [n for _, parent, n in live_processes() if parent == head.supervisor] and not any(
        head.folder == Path(os.readlink(f"/proc/{pid}/cwd")) for pid, _, n in live_processes() if n == "gcs_server"),
        10 * slow(), "the head is gone")
    program.say("task")
    program.expect(r"^ok 42$")
    again = nodes.start("--head", f"--port={head.address.split(':')[1]}", "--node-name=third", *where)
    assert again.file["cluster_id"] == head.file["cluster_id"]
    wait_until(lambda: {k for k, v in nodes.states().items() if v} >= {"second", "third"}, 10 * slow(), "both are there")
    program.say("task")
    wait_until(lambda: program.out.count("ok 42") == 2, 10 * slow(), "a task")
    assert second.file["node_id"] in {n["node_id"] for n in nodes.list("nodes") if n["state"] == "ALIVE"}
    program.say("exit 0")
    program.wait()
    nodes.ray("stop")
    nodes.ray("stop", f"--temp-dir={nodes.temp('second')}")
    nodes.ended_by_kill = True
    nodes.all_gone()


def test_a_wrong_redis_password_is_said(nodes, redis):
    done = nodes.ray("start", "--head", "--port=0", f"--node-ip-address={HERE}", f"--redis-address={HERE}:{redis.port}",
                     "--redis-password=wrong", status=1)
    assert "gcs_server exited with status 1" in done.stderr and "password" in done.stderr.lower(), done.stderr


def test_who_waits_for_a_redis_that_takes_no_changes_says_so(nodes, redis):
    head = nodes.head(f"--redis-address={HERE}:{redis.port}", "--redis-password=a-password")
    redis.say("CONFIG SET min-replicas-to-write 1")
    temp = nodes.temp("second")
    second = nodes.cluster.start(build_dir() / "bin/ray", "start", f"--address={head.address}", f"--temp-dir={temp}",
                                 f"--node-ip-address={HERE}", "--num-cpus=1", env={"HOME": nodes.home})
    wait_until(lambda: any("does its Redis take changes?" in f.read_text() for f in temp.glob("*/logs/raylet.err")),
               20 * slow(), "it says so")
    nodes.ray("health-check")
    redis.say("CONFIG SET min-replicas-to-write 0")
    assert second.wait() == 0, repr(second)
    assert [n["state"] for n in nodes.list("nodes")] == ["ALIVE", "ALIVE"]
    nodes.ray("stop")
    nodes.ray("stop", f"--temp-dir={temp}")
    nodes.all_gone()


def test_ray_stop_ends_a_node_that_starts(nodes):
    env = slow_redis(nodes)
    program = nodes.cluster.start(build_dir() / "bin/ray", "start", "--head", "--port=0", "-v", env=env)
    program.expect("starting redis-server")
    assert "Stopped 1 of 1" in nodes.ray("stop").stdout
    assert program.wait() == 1
    assert "told to end before it was ready" in program.err
    nodes.all_gone()


# --- what cannot be ---

def test_a_taken_port_is_named_with_who_has_it(nodes):
    head = nodes.head()
    port = head.address.split(":")[1]
    done = nodes.ray("start", "--head", f"--port={port}", f"--node-ip-address={HERE}", status=1)
    assert f"port {port} is taken by process {head.daemon('gcs_server')} (gcs_server)" in done.stderr, done.stderr
    assert "ray stop" in done.stderr
    assert set(head.daemons()) == {"redis-server", "gcs_server", "raylet"}
    nodes.ray("stop")
    with socket.socket() as s:
        s.bind((HERE, 0))
        s.listen()
        done = nodes.ray("start", "--head", f"--port={s.getsockname()[1]}", f"--node-ip-address={HERE}", status=1)
        assert f"by process {os.getpid()} " in done.stderr and "--port" in done.stderr, done.stderr
    nodes.all_gone()


def test_without_redis_server_the_package_is_named(nodes):
    done = nodes.ray("start", "--head", status=1, env={"PATH": "/nonexistent"})
    assert "no redis-server" in done.stderr and "apt install redis-server" in done.stderr
    assert not nodes.sessions()


def test_without_its_companions_the_package_is_named(nodes):
    shutil.copy(build_dir() / "bin/ray", nodes.cluster.path / "ray-alone")
    done = nodes.ray("start", "--head", status=1, binary=nodes.cluster.path / "ray-alone")
    assert "no raylet beside" in done.stderr and "install the whole of Ray" in done.stderr, done.stderr


def test_a_part_that_fails_is_named_with_its_last_words(nodes):
    (nodes.cluster.path / "bad").mkdir()
    redis = nodes.cluster.path / "bad/redis-server"
    redis.write_text("#!/bin/sh\necho these are my last words >&2\nexit 3\n")
    redis.chmod(0o755)
    env = {"PATH": f"{redis.parent}:{os.environ['PATH']}"}
    done = nodes.ray("start", "--head", "--port=0", status=1, env=env)
    assert "redis-server exited with status 3" in done.stderr and "these are my last words" in done.stderr
    redis.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    done = nodes.ray("start", "--head", "--port=0", status=1, env={**env, "RAY_start_timeout_ms": 100})
    assert "redis-server was not ready within 100 ms" in done.stderr, done.stderr
    nodes.all_gone()


@pytest.mark.parametrize("args,words", [
    ([], ["--head", "--address=HOST:PORT"]),
    (["--head", "--address=1.2.3.4:6379"], ["say one of them"]),
    (["--address=1.2.3.4"], ["HOST:PORT", "6379"]),
    (["--address=1.2.3.4:0"], ["HOST:PORT"]),
    (["--address=1.2.3.4:6379", "--port=6379"], ["--port is the head's"]),
    (["--address=1.2.3.4:6379", "--redis-address=1.2.3.4:6379"], ["--redis-address is the head's"]),
    (["--head", "--redis-password=x"], ["--redis-address"]),
    (["--head", "--redis-address=./socket"], ["HOST:PORT", "begins with /"]),
    (["--head", "--redis-address=name.invalid:6379"], ["name.invalid"]),
    (["--head", "--redis-address=name.invalid"], ["name.invalid:"]),
    (["--head", "--redis-address=::1:6379"], ["HOST:PORT", "brackets"]),
    (["--head", "--num-cpu=2"], ["did you mean --num-cpus?"]),
    (["--head", "--num-cpus=-1"], ["--num-cpus must be", "not -1"]),
    (["--head", "--num-cpus"], ["--num-cpus needs a value"]),
    (["--head", "--port=70000"], ["--port must be", "65535"]),
    (["--head", "--object-store-memory=1"], ["--object-store-memory must be", "1048576"]),
    (["--head", "--node-ip-address=here"], ["IPv4"]),
    (["--head", "--node-ip-address=0.0.0.0"], ["others reach"]),
    (["--head", "--resources={"], ["JSON"]),
    (["--head", '--resources={"CPU": 1}'], ["--num-cpus"]),
    (["--head", '--resources={"a": "b"}'], ["no number"]),
    (["--head", '--resources={"a": -1}'], ["0 to"]),
    (["--head", '--resources={"a": 1, "a": 2}'], ["JSON"]),
    (["--head", "--labels={}"], ["--labels must be as region=eu"]),
    (["--head", "--labels=a"], ["not a"]),
    (["--head", "--labels=a=b,/c=d"], ["not /c=d"]),
    (["--head", "--labels=a=-"], ["not a=-"]),
    (["--head", "--labels=" + "a" * 64 + "=b"], ["up to 63"]),
    (["--head", "--labels=" + "a" * 65536], ["at most 511"]),
    (["--head", "--dashboard-host=0.0.0.0"], ["no dashboard", "leave it out"]),
    (["--head", "--no-monitor"], ["there is no monitor"]),
    (["--head", "--enable-resource-isolation"], ["this release does not have it", "leave it out"]),
    (["--head", "--gcs-server-port=1"], ["say --port"]),
    (["--head", "--raylet-socket-name=x"], ["--temp-dir"]),
    (["--head", "--block=1"], ["takes no value"]),
    (["--head", "word"], ["unexpected argument word"]),
    (["--head", "--node-name=" + "x" * 65536], ["--node-name has at most"]),
    (["--head", "--resources=" + "x" * 65536], ["JSON"]),
    (["--" + "x" * 65536], ["there is no --xxxx"]),
    (["--head", "--temp-dir=/" + "x" * 65536], ["longer than"]),
])
def test_flags_that_cannot_be_say_what_to_write(nodes, args, words):
    status = 1 if any("temp-dir" in a for a in args) else 2
    done = nodes.ray("start", *args, status=status)
    for word in words:
        assert word in done.stderr, done.stderr
    assert len(done.stderr) < 1000 and not done.stdout
    assert not nodes.sessions()


@pytest.mark.parametrize("command", ["", "start", "stop", "status", "list", "health-check", "get-auth-token", "config",
                                     "doctor", "memory", "why"])
def test_every_command_has_help(nodes, command):
    done = nodes.ray(*command.split(), "--help")
    assert "--help" in done.stdout and not done.stderr
    assert done.stdout.endswith("\n")


def test_an_unknown_command_is_answered_with_the_nearest(nodes):
    assert "did you mean ray start?" in nodes.ray("strat", status=2).stderr
    assert "ray --help" in nodes.ray("nonsense", status=2).stderr
    assert "this release has no up: ray start" in nodes.ray("up", "cluster.yaml", status=2).stderr
    assert "this release has no serve; see" in nodes.ray("serve", "run", status=2).stderr
    assert "leave it out" in nodes.ray("status", "-v", status=2).stderr
    assert "leave it out" in nodes.ray("health-check", "--skip-version-check", status=2).stderr
    assert nodes.ray("--version").stdout.startswith("ray-c ")


def test_a_temp_folder_that_cannot_be_written(nodes):
    folder = nodes.cluster.path / "file"
    folder.write_text("")
    done = nodes.ray("start", "--head", f"--temp-dir={folder}", status=1)
    assert "temp_dir" in done.stderr, done.stderr


def test_a_temp_folder_of_another_user(nodes, public):
    runner = as_user(65534)
    (public / "theirs").mkdir()
    (public / "theirs").chmod(0o755)
    done = nodes.ray("start", "--head", f"--temp-dir={public}/theirs", status=1, prefix=runner, binary=public / "bin/ray",
                     env={"HOME": public / "home"})
    assert "Permission denied" in done.stderr and "choose another" in done.stderr, done.stderr


def test_commands_without_a_cluster_say_so(nodes):
    for args in (["status"], ["list", "nodes"], ["health-check"]):
        done = nodes.ray(*args, status=1)
        assert "ray start --head" in done.stderr, done.stderr
    done = nodes.ray("health-check", f"--address={HERE}:{free_port()}", "--timeout=0.2", status=1,
                     env={"RAY_AUTH_TOKEN": "x"})
    assert "no GCS answers" in done.stderr
    for address in ("1.2.3.4", "1.2.3.4:", "1.2.3.4:22x", "1.2.3.4:65536"):
        done = nodes.ray("status", f"--address={address}", status=1, env={"RAY_AUTH_TOKEN": "x"})
        assert "HOST:PORT" in done.stderr, done.stderr
    assert "did you mean nodes?" in nodes.ray("list", "node", status=2).stderr


def test_a_program_that_waits_for_the_gcs_is_told_with_its_time(nodes):
    head = nodes.head()
    gcs = head.daemons()["gcs_server"]
    os.kill(gcs, signal.SIGSTOP)
    try:
        program = nodes.cluster.start("hold", env={"RAY_ADDRESS": "auto"})
        program.say("init 0")

        def time():
            told = json.loads(nodes.ray("why", "--timeout=0.1", "--format=json", status=1).stdout)
            return sum(w["waiting_s"] for w in told["waits"] if w["name"] == f"program pid={program.pid}")
        wait_until(time, 20 * slow(), "it waits, and since when")
    finally:
        os.kill(gcs, signal.SIGCONT)
    program.expect(r"^ok \d+$")
    program.say("exit 0")
    program.wait()
    nodes.ray("stop")


# --- several ---

def test_a_start_with_a_folder_of_its_own_says_how_to_find_it(nodes):
    folder = nodes.temp("elsewhere")
    done = nodes.ray("start", "--head", "--port=0", f"--node-ip-address={HERE}", f"--temp-dir={folder}")
    assert f"export RAY_TMPDIR={folder}\n" in done.stdout
    nodes.ray("status", env={"RAY_TMPDIR": folder})
    nodes.ray("stop", env={"RAY_TMPDIR": folder})


def test_two_clusters_of_one_user_on_one_machine(nodes):
    one, two = nodes.head(), nodes.head()
    assert one.address != two.address and one.file["cluster_id"] != two.file["cluster_id"]
    done = nodes.ray("stop", f"--address={one.address}")
    assert "Stopped 1 of 1" in done.stdout
    assert not one.daemons() and len(two.daemons()) == 3
    nodes.ray("health-check", f"--address={two.address}")
    assert "No node of yours" in nodes.ray("stop", "--address=1.2.3.4:5").stdout
    nodes.ray("stop")
    nodes.all_gone()


def test_logs_of_ended_nodes_are_kept_up_to_a_number(nodes):
    for _ in range(3):
        head = nodes.head(env={"RAY_kept_sessions": 1})
        nodes.ray("stop")
        os.utime(head.folder / "supervisor.pid", (1, 1))
    head = nodes.head(env={"RAY_kept_sessions": 1})
    assert len(nodes.sessions()) == 2
    nodes.ray("stop")


def test_settings_come_from_the_environment_and_say_so(nodes):
    port = free_port()
    dump = nodes.ray("config", env={"RAY_port": port}).stdout
    assert re.search(rf"^RAY_port +environment +{port}$", dump, re.M)
    assert re.search(r"^RAY_num_gpus +default +0$", dump, re.M)
    assert "RAY_port must be" in nodes.ray("start", "--head", status=2, env={"RAY_port": "x"}).stderr
    head = nodes.start("--head", env={"RAY_port": port})
    assert head.address == f"{HERE}:{port}"
    nodes.ray("stop")
    done = nodes.ray("config", env={"RAY_NUM_CPUS": "4", "RAY_prot": "1", "RAY_AUTH_TOKEN_PATH": "x", "RAY_DEDUP_LOGS": "0"})
    assert [line.split(": ")[1] for line in done.stderr.splitlines() if "TEST" not in line] == [
        "RAY_NUM_CPUS is no setting; did you mean RAY_num_cpus?", "RAY_prot is no setting; did you mean RAY_port?"]


def test_the_page_of_settings_is_current(nodes):
    page = Path(__file__).parents[2] / "docs/configuration.md"
    assert page.read_text() == nodes.ray("config", "--markdown").stdout


def test_logs_of_daemons_are_rotated(nodes):
    """Of all three; a gcs_server that is started again goes on in its file; what it says on standard error goes along."""
    limit = 64
    head = nodes.head(env={"RAY_ROTATION_MAX_BYTES": limit, "RAY_ROTATION_BACKUP_COUNT": 2, "RAY_restart_delay_max_ms": 20})

    def sizes(name):
        files = [head.folder / f"logs/{name}.err{end}" for end in ("", ".1", ".2", ".3")]
        return [f.stat().st_size if f.exists() else None for f in files]

    def look():
        if all(None not in sizes(name)[:3] for name in ("gcs_server", "raylet", "supervisor")):
            return True
        old = head.daemon("gcs_server")
        os.kill(old, signal.SIGKILL)
        wait_new(head, "gcs_server", old)
        nodes.list("nodes")  # the raylet speaks to the new one soon
        return None

    wait_until(look, 60 * slow(), "all have two backups")
    for name in ("gcs_server", "raylet", "supervisor"):
        assert sizes(name)[3] is None and max(sizes(name)[:3]) < limit + 1024, (name, sizes(name))
    assert os.readlink(f"/proc/{head.daemon('gcs_server')}/fd/2") == str(head.folder / "logs/gcs_server.err")
    nodes.ray("stop")
