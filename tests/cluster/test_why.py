# SPDX-License-Identifier: Apache-2.0
"""`ray why` and `ray list workers`: what waits, for what, on which node; and who does not answer."""
import json
import os
import re
import signal
import subprocess
import time

from conftest import build_dir, slow, wait_until
from test_jobs import ask
from test_machines import TOKEN, leave, machines, two  # noqa: F401: fixtures
from test_start import nodes  # noqa: F401: a fixture


def ask_ray(machines, *args):
    env = machines.cluster.env(RAY_AUTH_TOKEN=TOKEN)
    return subprocess.run([build_dir() / "bin/ray", *args, f"--address=127.0.0.1:{machines.port}"], env=env,
                          capture_output=True, text=True, timeout=60 * slow(), check=False)


def ray(machines, *args, status=0):
    done = ask_ray(machines, *args)
    assert done.returncode == status, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def waits(machines, name, **options):
    told = json.loads(ray(machines, "why", "--format=json", **options).stdout)
    return [w for w in told["waits"] if w["name"] == name]


def wait_for(machines, name, reason):
    """The one wait of that class, once it has that reason."""
    def look():
        found = waits(machines, name)
        return found if [w["reason"] for w in found] == [reason] else None
    return wait_until(look, 20 * slow(), f"{name} waits: {reason}")[0]


def job_of(machines, program):
    jobs = json.loads(ray(machines, "list", "jobs", "--format=json").stdout)
    return next(int.from_bytes(bytes.fromhex(j["job_id"]), "little") for j in jobs if j["driver_pid"] == program.pid)


def workers(machines, **options):
    return json.loads(ray(machines, "list", "workers", "--format=json", **options).stdout)


def test_nothing_waits(two):
    assert ray(two, "why").stdout == "nothing waits\n"


def test_what_no_node_can_ever_run_names_the_resource_and_the_largest_node(two):
    program = two.nodes[0].driver()
    ask(program, "hold 3 0 b=200")
    wait = wait_for(two, "hold", "infeasible")
    assert wait["resources"] == {"CPU": 1, "b": 200} and wait["node_name"] == "a"
    assert wait["job"] == job_of(two, program)
    assert "needs 200 b, the largest node, b, has 100: no node can ever run it" in wait["message"]
    assert f"ray start --address=127.0.0.1:{two.port}" in wait["message"]
    ask(program, "hold 1 0 tpu=1")
    wait_until(lambda: "needs 1 tpu, which no node has" in ray(two, "why").stdout or None, 20 * slow(), "tpu")
    wait_until(lambda: "hold waits for a node with 1 tpu, this one has none" in program.err or None, 20 * slow(), "warned")
    ask(program, "hold 1 0 a=1,b=1")
    wait_until(lambda: "no node has all of 1 CPU, 1 a, 1 b" in ray(two, "why").stdout or None, 20 * slow(), "a and b")
    leave(program)


def test_a_full_cluster_says_who_has_its_cpus(two):
    first, second = two.nodes[0].driver(), two.nodes[1].driver()
    assert "(no resource demands)" in ray(two, "status").stdout
    ask(first, "hold 3 0")
    wait_until(lambda: sum(w["function"] == "hold" for w in workers(two)) == 3 or None, 20 * slow(), "three run")
    second.say("where 2 30000000")  # one finds the last CPU
    wait_until(lambda: sum(w["function"] == "where" for w in workers(two)) == 1 or None, 20 * slow(), "one runs")
    wait = wait_for(two, "where", "resources")
    assert wait["resources"] == {"CPU": 1} and wait["job"] == job_of(two, second)
    assert "waits for CPU: all 4 of the 2 nodes that could run it, used by " \
        f"hold of job {job_of(two, first)} (3), where of job {wait['job']} (1)" in wait["message"]
    text = ray(two, "why").stdout
    assert re.search(rf"^where of job {wait['job']}, each with 1 CPU: 1 worker is wanted at [ab], for up to \d", text, re.M), text
    assert re.search(r"^  \{CPU: 1\}: 1\+ pending tasks$", ray(two, "status").stdout, re.M)
    assert json.loads(ray(two, "status", "--format=json").stdout)["demands"] == [{"resources": {"CPU": 1}, "count": 1}]
    second.kill()
    leave(first)


def test_workers_of_all_nodes_and_one_that_is_stopped(two):
    program = two.nodes[0].driver()
    ask(program, "hold 1 0 a=1")
    ask(program, "hold 1 0 b=1")

    def both():
        rows = [w for w in workers(two) if w["state"] == "leased"]
        return rows if len(rows) == 2 else None

    rows = wait_until(both, 20 * slow(), "both run")
    held = {int(pid): node for pid, node in re.findall(r"held (\d+) ([0-9a-f]{8})", wait_until(
        lambda: program.out if program.out.count("held") == 2 else None, 20 * slow(), "both print"))}
    assert {w["pid"]: w["node_id"][:8] for w in rows} == held
    assert sorted(w["node_name"] for w in rows) == ["a", "b"] and {w["function"] for w in rows} == {"hold"}
    assert [w["pid"] for w in workers(two) if w["worker_type"] == "DRIVER"] == [program.pid]
    stopped = two.nodes[1]
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        done = ray(two, "list", "workers", "--format=json", status=1)
        assert re.search(r"node b \(127\.0\.0\.1:\d+\) does not answer: nothing came within 2000 ms", done.stderr)
        assert {w["node_name"] for w in json.loads(done.stdout)} == {"a"}
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    leave(program)


def test_units_at_a_node_that_is_stopped(two):
    program = two.nodes[0].driver()
    os.kill(two.nodes[1].pid, signal.SIGSTOP)
    try:
        ask(program, "hold 1 0 b=1")
        ask(program, "cluster", r"cluster (\d+) [\d.]+")  # answered by its raylet, behind what was asked for
        wait, = waits(two, "hold", status=1)
    finally:
        os.kill(two.nodes[1].pid, signal.SIGCONT)
    assert wait["reason"] == "no_answer" and wait["node_name"] == "a" and wait["count"] == 1, wait
    assert re.match(r"b was asked [\d.]+ s ago and has not said yes or no yet; it does not answer this command either: ",
                    wait["message"])
    leave(program)


def test_one_task_says_what_it_waits_for(two):
    program = two.nodes[0].driver()
    held = ask(program, "hold 1 0 b=1")
    program.expect(r"held (\d+) ")
    after = ask(program, f"after {held} 0 a=1")
    last = ask(program, f"after {after} 0 a=1")
    never = ask(program, "hold 1 0 tpu=1")
    ids = {what: ask(program, f"id {ref}", r"id ([0-9a-f]{56})")
           for what, ref in (("held", held), ("after", after), ("last", last), ("never", never))}
    pid = next(w["pid"] for w in workers(two) if w["function"] == "hold")
    runs = rf"object {ids['held']}, by hold, owned by driver pid={program.pid} at a: " \
        rf"runs on worker pid={pid} at b, for ([\d.]+) s"
    first = float(re.fullmatch(runs + "\n", ray(two, "why", ids["held"]).stdout).group(1))
    task = ids["held"][:48]
    assert ray(two, "why", task).stdout.startswith(f"task {task} of hold, owned by driver pid={program.pid}")
    told = ray(two, "why", ids["last"]).stdout.splitlines()
    assert [len(line) - len(line.lstrip()) for line in told] == [0, 4, 8]
    for line, what in zip(told, ("last", "after")):
        assert re.fullmatch(f"object {ids[what]}, by check_sum, owned by driver pid={program.pid} at a: "
                            r"waits for arguments, for [\d.]+ s", line.strip()), line
    assert first <= float(re.fullmatch(runs, told[2].strip()).group(1)) < 100 * slow()
    told = ray(two, "why", ids["never"]).stdout
    assert re.search(r"by hold, .*: waits for a worker, for [\d.]+ s\n    1 wanted at a for up to [\d.]+ s: needs 1 tpu, which no node has",
                     told), told
    mine = ask(program, "put 1000000 3")
    assert re.search(r"at a: is ready: \d{7} bytes in the object store of its owner's node\n",
                     ray(two, "why", ask(program, f"id {mine}", r"id (\S+)")).stdout)
    os.kill(program.pid, signal.SIGSTOP)
    try:
        told = ray(two, "why", ids["held"], status=1).stdout
        assert re.search(rf": its owner, driver pid={program.pid} at a, cannot be asked: nothing came within 2000 ms", told)
    finally:
        os.kill(program.pid, signal.SIGCONT)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: re.search(r"has failed: .*killed by signal 9", ray(two, "why", ids["held"]).stdout), 20 * slow(),
               "the task has failed")
    leave(program)
    wait_until(lambda: re.match(rf"object {ids['held']}: its owner, process \d+, has ended\n",
                                ask_ray(two, "why", ids["held"]).stdout), 20 * slow(), "its owner ends")


def test_times_of_tasks_that_wait_and_run(machines):
    """Since when, not more: the one that waits came later than the one that runs."""
    machines.add("a", num_cpus=1)
    program = machines.nodes[0].driver()
    began = time.monotonic()
    ask(program, "hold 1 0")
    program.expect(r"held (\d+) ")
    wait_until(lambda: (workers(machines)[0]["running_ms"] or 0) > 1500 or
               any((w["running_ms"] or 0) > 1500 for w in workers(machines)), 20 * slow(), "it has run for a while")
    waiting = [ask(program, f"id {ask(program, 'hold 1 0')}", r"id (\S+)") for _ in range(3)]

    def waits_s(what):
        return float(re.search(r": waits for a worker, for ([\d.]+) s\n", ray(machines, "why", what).stdout).group(1))

    row = next(w for w in workers(machines) if w["function"] == "hold")
    for what in waiting:  # the second and third join a queue, which takes no look at the clock
        assert waits_s(what) <= time.monotonic() - began - 1.4, what
    assert 1500 < row["running_ms"] <= (time.monotonic() - began) * 1000 + 100
    wait_until(lambda: min(map(waits_s, waiting)) > 0.5, 20 * slow(), "all have waited for a while")
    program.kill()


def test_workers_that_have_ended_are_remembered(machines):
    """How each has ended, by its identity and in the list; the oldest go first."""
    machines.add("a", num_cpus=1, RAY_maximum_gcs_dead_worker_cached_count="2")
    program = machines.nodes[0].driver()
    ended = []
    for k in range(3):
        ask(program, "hold 1 0")
        wait_until(lambda n=k: program.out.count("held ") > n or None, 20 * slow(), "it runs")
        row = next(w for w in workers(machines) if w["function"] == "hold" and w["is_alive"])
        os.kill(row["pid"], signal.SIGKILL if k < 2 else signal.SIGTERM)
        wait_until(lambda r=row: [w for w in workers(machines) if w["worker_id"] == r["worker_id"] and not w["is_alive"]],
                   20 * slow(), "it has ended")
        ended.append(row)
    told = ray(machines, "why", ended[1]["worker_id"]).stdout
    assert re.fullmatch(rf"worker pid={ended[1]['pid']} at a was killed by signal 9 \(Killed\), not by its raylet: by a "
                        r"user, or by the kernel, out of memory, [\d.]+ s ago; it served hold of job \d+\n", told), told
    dead = [w for w in workers(machines) if not w["is_alive"]]
    assert [w["worker_id"] for w in dead] == [w["worker_id"] for w in ended[1:]]
    assert dead[1]["exit_detail"] == "was killed by signal 15 (Terminated), not by its raylet" and dead[1]["state"] == "dead"
    assert "lives or is remembered" in ray(machines, "why", ended[0]["worker_id"], status=1).stdout
    ask(program, "hold 1 0")
    wait_until(lambda: program.out.count("held ") > 3 or None, 20 * slow(), "it runs")
    last = next(w for w in workers(machines) if w["function"] == "hold" and w["is_alive"])["worker_id"]
    program.kill()
    wait_until(lambda: [w for w in workers(machines) if w["worker_id"] == last and
                        w["exit_detail"] == "was killed by its raylet: its job has ended"], 20 * slow(), "its job ends")


def test_workers_and_nodes_by_their_identity(two):
    program = two.nodes[0].driver()
    ask(program, "hold 1 0 b=1")
    program.expect(r"held (\d+) ")
    row = next(w for w in workers(two) if w["function"] == "hold")
    told = ray(two, "why", row["worker_id"]).stdout
    assert re.fullmatch(rf"worker pid={row['pid']} at b serves hold of job \d+, for [\d.]+ s; "
                        r"a body has run for [\d.]+ s\n", told), told
    assert 0 <= row["running_ms"] < 100000 * slow() and row["is_alive"]
    assert ray(two, "why", row["node_id"]).stdout == "node b lives and answers\n"
    assert "no node of the cluster had that identity" in ray(two, "why", "00" * 28, status=1).stdout
    job = job_of(two, program)
    task = "f" * 40 + job.to_bytes(4, "little").hex()
    assert ray(two, "why", task).stdout == f"the program of job {job} itself: pid={program.pid} at a\n"
    assert "is no identity" in ray(two, "why", "12", status=2).stderr
    leave(program)
    two.nodes[1].program.kill(signal.SIGTERM)
    wait_until(lambda: re.match(r"node b is dead: .+\n", ask_ray(two, "why", row["node_id"]).stdout), 20 * slow(),
               "its node has left")


def test_a_cluster_of_one_program_can_be_asked(cluster):
    def ask_it(*args):
        done = subprocess.run([build_dir() / "bin/ray", "why", *args], env=cluster.env(), capture_output=True, text=True,
                              timeout=60 * slow(), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    program = cluster.start("machines")
    program.say("init")
    program.expect(r"^ok \d+$")
    assert ask_it() == "nothing waits\n"
    never = ask(program, "hold 1 0 tpu=1")
    told = ask_it()
    assert "needs 1 tpu, which no node has: no node can ever run it; ask for less, or start a cluster" in told, told
    told = ask_it(ask(program, f"id {never}", r"id (\S+)"))
    assert re.search(rf"by hold, owned by driver pid={program.pid} at .*: waits for a worker, for [\d.]+ s\n.*which no node has", told)
    leave(program)


def test_doctor_looks_at_the_cluster_from_here(two):
    told = ask_ray(two, "doctor").stdout
    assert re.search(rf"^head {{14}}127\.0\.0\.1:{two.port} answers in [\d.]+ ms$", told, re.M), told
    assert re.search(r"^nodes {13}2 of 2 answer from here$", told, re.M) and "  ! node" not in told
    assert re.search(r"^raylet {12}/\S+, version \S+$", told, re.M) and "of RAY_AUTH_TOKEN" in told
    os.kill(two.nodes[1].pid, signal.SIGSTOP)
    try:
        told = ray(two, "doctor", status=1).stdout
    finally:
        os.kill(two.nodes[1].pid, signal.SIGCONT)
    assert re.search(r"^nodes {13}1 of 2 answer from here\n  ! node b at 127\.0\.0\.1:\d+ does not answer: .*firewalls", told,
                     re.M), told


def test_doctor_says_what_to_do(machines):
    home = machines.cluster.path / "home"
    (home / ".ray").mkdir(parents=True)
    token = home / ".ray" / "auth_token"

    def doctor(*args, **env):
        return subprocess.run([build_dir() / "bin/ray", "doctor", *args], text=True, check=False, timeout=60 * slow(),
                              capture_output=True, env=machines.cluster.env(HOME=home, **env))
    told = doctor("--address=127.0.0.1:1")
    assert told.returncode == 1 and "  ! there is no token" in told.stdout
    told = doctor(RAY_port=machines.port, PATH="/nowhere").stdout
    assert f"  - port {machines.port} is taken: " in told and "(gcs_server): a cluster runs here already" in told
    assert "  - no redis-server in PATH: a head needs one (apt install redis-server)" in told and "  - no token yet" in told
    token.write_text("a-token-that-all-may-read")
    token.chmod(0o644)
    told = doctor(RAY_object_store_memory=1 << 45)
    assert told.returncode == 1
    assert f"others may read it (mode 0644), and who has it has the cluster: chmod 600 {token}" in told.stdout
    assert "  ! the object store is larger than what is free: lower RAY_object_store_memory" in told.stdout
    token.chmod(0o600)
    told = doctor(f"--address=127.0.0.1:{machines.port}")
    assert told.returncode == 1 and re.search(r"  ! .*token", told.stdout), told.stdout  # another cluster's


def test_a_gcs_that_is_away_is_said_and_this_node_asked(nodes):  # noqa: F811
    head = nodes.head()
    program = nodes.cluster.start("machines", env={"RAY_ADDRESS": "auto"})
    program.say("init")
    program.expect(r"^ok \d+$")
    ask(program, "hold 1 0 tpu=1")
    gcs = head.daemon("gcs_server")
    os.kill(gcs, signal.SIGSTOP)
    try:
        done = nodes.ray("why", "--timeout=1", status=1)
        assert f"no GCS answers at {head.address}" in done.stderr and "this machine's alone was asked" in done.stderr
        assert "needs 1 tpu, which no node has" in done.stdout
        done = nodes.ray("list", "workers", "--timeout=1", "--format=json", status=1)
        assert program.pid in [w["pid"] for w in json.loads(done.stdout)] and "no GCS answers" in done.stderr
    finally:
        os.kill(gcs, signal.SIGCONT)
    leave(program)
    nodes.ray("stop")
