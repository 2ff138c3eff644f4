# SPDX-License-Identifier: Apache-2.0
"""`ray memory` on programs in every state a ref can be in (tests/drivers/memory.c)."""
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from conftest import ANNA, BERT, as_user, build_dir, slow, wait_until

KIB = 1024


def ray_memory(cluster, *args, status=0, env=None, prefix=(), timeout=30):
    """What `ray memory` prints, parsed if it is JSON; its stderr beside it."""
    done = subprocess.run([*prefix, build_dir() / "bin" / "ray", "memory", f"--timeout={slow()}", *map(str, args)],
                          env=cluster.env(**(env or {})), capture_output=True, text=True, timeout=timeout * slow(),
                          check=False)
    assert done.returncode == status, f"status {done.returncode}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return (json.loads(done.stdout) if "--format=json" in args and done.stdout else done.stdout), done.stderr


def start(cluster, *args):
    """A program that has got to "ready", and the ids of its objects by their names."""
    program = cluster.start("memory", *args)
    program.expect(r"^ready$", timeout=30)
    ids = dict(re.findall(r"^(\w+) (\w+)$", program.out, re.M))
    return program, ids


def finish(program):
    program.say("end")
    assert program.wait() == 0


def rows_of(answer, object_id):
    return [r for r in answer["objects"] if r["object_id"] == object_id]


def row_of(answer, object_id, **wanted):
    rows = [r for r in rows_of(answer, object_id) if all(r[k] == v for k, v in wanted.items())]
    assert len(rows) == 1, (wanted, rows_of(answer, object_id))
    return rows[0]


def agrees(cluster):
    out, err = ray_memory(cluster, "--check")
    assert "all agree" in out and not err, (out, err)


def test_what_a_program_has_itself(cluster):
    program, ids = start(cluster, "own")
    answer, err = ray_memory(cluster, "--format=json")
    assert not err
    expected = {
        # name: kind, size, status, in the store, handles, views
        "small": ("LOCAL_REFERENCE", None, "-", False, 1, 0),
        "large": ("LOCAL_REFERENCE", 300 * KIB, "-", True, 1, 0),
        "inner": ("CAPTURED_IN_OBJECT", 400 * KIB, "-", True, 0, 0),
        "inner_small": ("CAPTURED_IN_OBJECT", None, "-", False, 0, 0),
        "outer": ("LOCAL_REFERENCE", None, "-", True, 1, 0),
        "viewed": ("PINNED_IN_MEMORY", 500 * KIB, "-", True, 1, 1),
        "view_only": ("PINNED_IN_MEMORY", 600 * KIB, "-", True, 0, 1),
        "freed": ("PINNED_IN_MEMORY", 700 * KIB, "FREED", True, 1, 1),
        "twice": ("LOCAL_REFERENCE", 800 * KIB, "-", True, 2, 0),
        "done": ("LOCAL_REFERENCE", 1, "FINISHED", False, 1, 0),
        "failed": ("LOCAL_REFERENCE", None, "FAILED", False, 1, 0),
    }
    lines = Path("tests/drivers/memory.c").read_text().splitlines()
    for name, (kind, size, status, in_store, handles, views) in expected.items():
        row = row_of(answer, ids[name])
        assert row["reference_type"] == kind, row
        assert row["object_size"] == size or size is None and row["object_size"] > 0, row
        assert (row["task_status"], row["in_store"], row["local_references"], row["views"]) == (
            status, in_store, handles, views), row
        assert (row["pid"], row["type"], row["owner_pid"], row["is_owner"]) == (
            program.pid, "Driver", program.pid, True), row
        file, line = row["call_site"].split(":")
        assert file == "memory.c" and ("put" in lines[int(line) - 1] or "remote" in lines[int(line) - 1]
                                       or "seal" in lines[int(line) - 1]), row
    assert row_of(answer, ids["inner"])["captured_in_objects"] == 1
    assert len(answer["objects"]) == len(expected)
    assert answer["store"]["objects"] == sum(e[3] for e in expected.values())
    agrees(cluster)
    finish(program)


def test_what_tasks_hold(cluster):
    program, ids = start(cluster, "pending")
    answer, err = ray_memory(cluster, "--format=json")
    assert not err
    for name, tasks in (("by_ref", 1), ("in_list", 1), ("both", 1), ("running", 1)):
        row = row_of(answer, ids[name], pid=program.pid)
        assert (row["reference_type"], row["used_by_tasks"]) == ("USED_BY_PENDING_TASK", tasks), row
    assert row_of(answer, ids["running"])["task_status"] == "SUBMITTED_TO_WORKER"
    assert row_of(answer, ids["queued"])["task_status"] == "PENDING_NODE_ASSIGNMENT"
    assert row_of(answer, ids["waits"])["task_status"] == "PENDING_ARGS_AVAIL"
    in_list = row_of(answer, ids["in_list"], type="Worker")  # while the body runs: it may look inside its list
    assert (in_list["reference_type"], in_list["is_owner"], in_list["owner_pid"]) == (
        "LOCAL_REFERENCE", False, program.pid), in_list
    by_ref = row_of(answer, ids["by_ref"], pid=program.pid)
    assert by_ref["pins_of_all"] == 1 and not [r for r in rows_of(answer, ids["by_ref"]) if r["type"] == "Worker"]
    agrees(cluster)
    finish(program)


def test_what_others_borrow(cluster):
    program, ids = start(cluster, "borrowed")
    pids = {k: int(v) for k, v in ids.items() if k in ("keeps_lent", "keeps_viewed", "owner")}
    answer, err = ray_memory(cluster, "--format=json")
    assert not err
    numbers = {p["pid"]: p["process"] for p in answer["processes"]}
    for name, kind, pins in (("lent", "LOCAL_REFERENCE", 0), ("viewed", "PINNED_IN_MEMORY", 1)):
        owner = row_of(answer, ids[name], pid=program.pid)
        assert (owner["reference_type"], owner["local_references"]) == ("BORROWED", 0), owner
        assert owner["borrowers"] == [numbers[pids[f"keeps_{name}"]]], owner
        borrower = row_of(answer, ids[name], pid=pids[f"keeps_{name}"])
        assert (borrower["reference_type"], borrower["pins"] + borrower["holds"]) == (kind, pins), borrower
        assert (borrower["is_owner"], borrower["owner_pid"], borrower["type"]) == (False, program.pid, "Worker")
        assert borrower["call_site"] == owner["call_site"] != ""
    ours = row_of(answer, ids["of_worker"], pid=program.pid)
    assert (ours["reference_type"], ours["owner_pid"], ours["is_owner"]) == ("CAPTURED_IN_OBJECT", pids["owner"], False) or (
        ours["reference_type"], ours["owner_pid"]) == ("LOCAL_REFERENCE", pids["owner"]), ours
    agrees(cluster)
    finish(program)


def test_killed_workers_leave_books_that_agree(cluster):
    """Checks go on while workers are killed in put, get and nest loops, and after it; RAY_TEST_KILL_S sets how long."""
    seconds = float(os.environ.get("RAY_TEST_KILL_S", "10"))
    program = cluster.start("memory", "kills", seconds)
    program.expect(r"^begins$")
    n = 0
    while "ready" not in program.out:
        out, _ = ray_memory(cluster, "--check")
        assert "all agree" in out
        n += 1
    program.expect(r"^ready$", timeout=30)
    kills = int(program.expect(r"^kills (\d+)$").group(1))
    assert kills >= seconds and n >= seconds, (kills, n)
    agrees(cluster)

    def unexplained():
        answer, _ = ray_memory(cluster, "--format=json")
        named = ("used_by_tasks", "captured_in_objects", "captured_in_results", "used_by_body", "views")
        return [r for r in answer["objects"] if r["reference_type"] == "UNKNOWN_STATUS"
                or r["holds_in_all"] != sum(r[k] for k in named) + len(r["borrowers"])]
    wait_until(lambda: not unexplained() or None, 20 * slow(), "each count explained")
    for worker in cluster.workers(program):  # the last that keep anything
        os.kill(worker.pid, signal.SIGKILL)

    def left():
        answer, _ = ray_memory(cluster, "--format=json")
        return answer["objects"] or answer["store"]["objects"] or answer["store"]["pins"] or answer["store"]["freeing"]
    wait_until(lambda: not left() or None, 20 * slow(), "all objects freed")
    agrees(cluster)
    finish(program)


@pytest.mark.parametrize("what, says", [
    ("none", None),
    ("pin", r"object {id}: the store sees 1 pins and 0 holds of driver \d+ \(pid {pid}\), which knows of 0 and 0"),
    ("hold", r"object {id}: the store sees 0 pins and 1 holds of driver \d+ \(pid {pid}\), which knows of 0 and 0"),
    ("free", r"object {id}: driver \d+ \(pid {pid}\) owns it in the store at \d+, where the store's object is none"),
    ("seal", r"object \w+: the store keeps 4096 bytes at \d+ for driver \d+ \(pid {pid}\), which has no record of it"),
    ("stranger", r"object \w+: the store keeps 4096 bytes at \d+ for process 7777, which does not live, and nobody"),
])
def test_a_planted_disagreement_is_found(cluster, what, says):
    if what == "none":
        program, ids = start(cluster, "many", 10)
        agrees(cluster)
        finish(program)
        return
    program, ids = start(cluster, "planted", what)
    out, err = ray_memory(cluster, "--check", status=1)
    says = says.format(id=ids["object"], pid=program.pid)
    found = re.findall(r"^disagreement: (.*)$", out, re.M)
    assert len(found) == 1 and re.search(says, found[0]) and not err, (out, err)
    assert out.rstrip().endswith("1 disagreement")
    if what == "pin":
        as_json, _ = ray_memory(cluster, "--check", "--format=json", status=1)
        assert as_json["disagreements"] == found
    finish(program)


def rss_of(pid):
    return int(re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M).group(1)) * KIB


def test_100000_refs(cluster):
    """Page by page: neither the raylet nor the program keeps anything, and each row is told once."""
    n = 100000
    program, ids = start(cluster, "many", n)
    raylet = cluster.zygote(program).parent
    before = rss_of(raylet), rss_of(program.pid)
    answer, err = ray_memory(cluster, "--format=json", timeout=60)
    assert not err and len(answer["objects"]) == n + 1
    kinds = [r["reference_type"] for r in answer["objects"]]
    assert (kinds.count("CAPTURED_IN_OBJECT"), kinds.count("LOCAL_REFERENCE")) == (n // 2, n // 2 + 1)
    assert all(r["captured_in_objects"] == (r["object_id"] != ids["list"]) for r in answer["objects"])
    agrees(cluster)
    if slow() == 1:
        after = rss_of(raylet), rss_of(program.pid)
        assert after[0] - before[0] < 2048 * KIB and after[1] - before[1] < 2048 * KIB, (before, after)
    finish(program)


def test_a_stopped_process_is_named_and_not_waited_for(cluster):
    program, ids = start(cluster, "borrowed")
    stopped = int(ids["keeps_viewed"])
    os.kill(stopped, signal.SIGSTOP)
    answer, err = ray_memory(cluster, "--format=json")
    assert re.search(rf"worker \d+ \(pid {stopped}\) did not answer", err), err
    assert [p["answer"] for p in answer["processes"] if p["pid"] == stopped] == ["silent"]
    assert row_of(answer, ids["lent"], pid=program.pid)["reference_type"] == "BORROWED"
    out, err = ray_memory(cluster, "--check", status=3)
    assert "all agree" in out and f"(pid {stopped}) did not answer" in err
    os.kill(stopped, signal.SIGCONT)
    wait_until(lambda: not ray_memory(cluster, "--format=json")[1] or None, 10 * slow(), "it answers again")
    agrees(cluster)
    program.kill(signal.SIGSTOP)  # the owner of almost all: the store still knows of it
    answer, err = ray_memory(cluster, "--format=json")
    assert re.search(rf"driver \d+ \(pid {program.pid}\) did not answer", err)
    row = row_of(answer, ids["lent"], pid=program.pid)
    assert (row["reference_type"], row["object_size"]) == ("UNKNOWN_STATUS", 300 * KIB)
    assert row_of(answer, ids["lent"], type="Worker")["reference_type"] == "LOCAL_REFERENCE"
    program.kill(signal.SIGCONT)
    finish(program)


def test_a_stopped_raylet_is_named(cluster):
    program, _ = start(cluster, "many", 10)
    raylet = cluster.zygote(program).parent
    os.kill(raylet, signal.SIGSTOP)
    out, err = ray_memory(cluster, status=1)
    assert not out and f"the raylet (pid {raylet})" in err and "did not answer" in err, err
    os.kill(raylet, signal.SIGCONT)
    agrees(cluster)
    finish(program)


def test_an_owner_that_died(cluster):
    program, ids = start(cluster, "borrowed")
    os.kill(int(ids["owner"]), signal.SIGKILL)

    def died():
        answer, _ = ray_memory(cluster, "--format=json")
        row = row_of(answer, ids["of_worker"], pid=program.pid)
        return (row["task_status"], row["owner_pid"]) == ("OWNER_DIED", -1) or None
    wait_until(died, 10 * slow(), "the owner's death")
    out, _ = ray_memory(cluster)
    assert re.search(rf"OWNER_DIED .*\d+: dead .*{ids['of_worker']}$", out, re.M), out
    agrees(cluster)
    os.kill(int(ids["keeps_lent"]), signal.SIGKILL)  # a borrower: kept for a grace, and no disagreement
    wait_until(lambda: str(ids["keeps_lent"]) not in [str(p.pid) for p in cluster.processes()] or None, 10, "dead")
    agrees(cluster)

    def is_freed():
        answer, _ = ray_memory(cluster, "--format=json")
        return not rows_of(answer, ids["lent"]) or None
    wait_until(is_freed, 20 * slow(), "the end of the grace")
    agrees(cluster)
    finish(program)


def test_how_it_prints(cluster):
    program, ids = start(cluster, "own")
    out, _ = ray_memory(cluster)
    assert str(cluster.sessions()[0]) in out
    assert re.search(rf"^127.0.0.1 +{program.pid} +Driver +memory.c:\d+ +- +307200 B +LOCAL_REFERENCE +\d+: {program.pid} +0 +"
                     rf"{ids['large']}$", out, re.M), out
    assert "--- Object store of this node ---" in out

    def sizes(*args):
        out, _ = ray_memory(cluster, "--no-format", *args)
        return [line.split("\t") for line in out.splitlines() if line.startswith("127.0.0.1\t")]
    rows = sizes()
    assert len(rows) == 11 and all(len(r) == 10 for r in rows)
    in_bytes = [int(r[5].split()[0]) for r in rows]
    assert in_bytes == sorted(in_bytes, reverse=True)
    kinds = [r[6] for r in sizes("--sort-by=REFERENCE_TYPE")]
    order = ["PINNED_IN_MEMORY", "LOCAL_REFERENCE", "CAPTURED_IN_OBJECT"]
    assert [order.index(k) for k in kinds] == sorted(order.index(k) for k in kinds)
    assert [r[5] for r in sizes("--units=KB", "-n", "2")] == ["800.000 KB", "700.000 KB"]
    assert len(sizes("--n=3")) == len(sizes("--num-entries=3")) == 3 and not sizes("--stats-only")
    by_site, _ = ray_memory(cluster, "--group-by=STACK_TRACE", "--sort-by=PID")
    groups = re.findall(r"^--- Summary for stack trace: (memory.c:\d+) ---$", by_site, re.M)
    assert len(groups) == len(set(groups)) and by_site.count("--- Object references for stack trace") == len(groups) >= 5
    put = [line.split()[3] for line in out.splitlines() if ids["large"] in line][0]
    assert put in groups
    finish(program)


@pytest.mark.parametrize("args, says", [
    (["--group-by=COLOUR"], "--group-by cannot be COLOUR"),
    (["--units=TB"], "--units cannot be TB"),
    (["--n=-1"], "--num-entries must be a number"),
    (["--timeout=0"], "--timeout must be a number"),
    (["--address=10.0.0.1:6379"], "--session-dir"),
    (["--colour"], "ray memory --help"),
    (["more"], "unexpected argument more"),
])
def test_usage(cluster, args, says):
    out, err = ray_memory(cluster, *args, status=2)
    assert not out and says in err, err


def test_help(cluster):
    out, err = ray_memory(cluster, "--help")
    assert not err
    for option in ("--group-by", "--sort-by", "--units", "--num-entries", "--stats-only", "--no-format", "--format", "--check",
                   "--timeout", "--session-dir", "--temp-dir", "--address"):
        assert option in out


def test_no_cluster(cluster):
    out, err = ray_memory(cluster, status=1)
    assert not out and f"no cluster of user {os.geteuid()} runs in {cluster.temp}" in err, err
    out, err = ray_memory(cluster, "--session-dir", cluster.path / "nothing", status=1)
    assert "no session" in err and "nothing" in err, err
    dead = cluster.temp / "session_2020-01-01_00-00-00_000000_1"
    (dead / "sockets").mkdir(parents=True)
    (dead / "raylet.pid").write_text("1\n")
    out, err = ray_memory(cluster, status=1)
    assert "no cluster" in err, err
    out, err = ray_memory(cluster, "--session-dir", dead, status=1)
    assert "is gone" in err, err
    shutil.rmtree(dead)


def test_several_clusters(cluster):
    """The newest is asked, and how to ask the others is said."""
    first, _ = start(cluster, "many", 5)
    older = cluster.sessions()[0]
    second, ids = start(cluster, "many", 6)
    answer, err = ray_memory(cluster, "--format=json")
    assert "2 clusters of yours run" in err and answer["session_dir"] != str(older) and rows_of(answer, ids["list"])
    answer, err = ray_memory(cluster, "--format=json", "--session-dir", older)
    assert not err and [p["pid"] for p in answer["processes"] if p["type"] == "Driver"] == [first.pid]
    finish(second)
    answer, err = ray_memory(cluster, "--format=json", "--address=auto")
    assert not err and answer["session_dir"] == str(older)
    finish(first)


@pytest.fixture
def raylet_socket():
    """The name of a session's socket, however long its path is."""
    folders = []

    def name(session):
        folders.append(os.open(session / "sockets", os.O_PATH))
        return f"/proc/self/fd/{folders[-1]}/raylet"
    yield name
    for fd in folders:
        os.close(fd)


def test_a_broken_socket(cluster, raylet_socket):
    program, _ = start(cluster, "many", 5)
    path = cluster.sessions()[0] / "sockets" / "raylet"
    assert (path.stat().st_mode & 0o777) == 0o600
    path.unlink()
    out, err = ray_memory(cluster, status=1)
    assert "the socket was removed" in err, err
    path.write_text("")
    out, err = ray_memory(cluster, status=1)
    assert "not the raylet's socket any more" in err, err
    path.unlink()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(raylet_socket(cluster.sessions()[0]))
        deaf.listen()
        out, err = ray_memory(cluster, status=1)
        assert "did not answer" in err, err
    path.unlink()
    finish(program)


@pytest.mark.parametrize("length", [20, 98])
def test_paths_of_all_lengths(cluster, length):
    """A socket's name has 108 bytes; the session's folder adds 60 to that of the temp folder."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    temp = folder / ("x" * (length - len(str(folder)) - 1))
    env = {"RAY_TMPDIR": temp}
    program = cluster.start("memory", "many", 5, env=env)
    program.expect(r"^ready$")
    answer, err = ray_memory(cluster, "--format=json", env=env)
    assert not err and len(answer["objects"]) == 6
    assert (len(answer["session_dir"] + "/sockets/raylet") > 108) == (length == 98)
    finish(program)
    shutil.rmtree(folder)


HEADER = struct.Struct("<IBBHII")


def frame(kind, body=b"", flags=0, route=0):
    return HEADER.pack(16 + len(body), kind, flags, 0, route, 0) + body


def hello(protocol, kind=4):
    return frame(1, struct.pack("<IIQiI32s", protocol, kind, 0, os.getpid(), 0, b""))


def test_foreign_bytes_at_the_socket(cluster, raylet_socket):
    """Each is answered with a sentence or the end of the link, and the cluster goes on."""
    wire = Path("lib/net/wire.h").read_text()
    protocol = int(re.search(r"^#define WIRE_PROTOCOL\s+(\d+)", wire, re.M).group(1))
    program, _ = start(cluster, "many", 5)
    path = raylet_socket(cluster.sessions()[0])
    ask = struct.pack("<QQI", 1, 0, 1)
    for said, answered in [
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"\xff" * 64, b""),
        (frame(104), b"HELLO"),
        (hello(protocol + 1), b"different versions"),
        (hello(protocol, 1), b"serves no other"),
        (frame(1, b"short"), b"malformed HELLO"),
        (hello(protocol) + hello(protocol), b"no command sends"),
        (hello(protocol) + frame(106, b"short"), b"no command sends"),
        (hello(protocol) + frame(104) * 33, b"no command sends"),
        (hello(protocol) + frame(16, b"a lease?" * 8), b"no command sends"),
        (hello(protocol) + frame(106, ask, flags=2), b"short"),
        (hello(protocol) + frame(106, ask, route=0x80000001), b"short"),
    ]:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10 * slow())
            s.connect(path)
            s.sendall(said)
            got = b""
            while (more := s.recv(65536)):
                got += more
            assert answered in got, (said, got)
    with socket.socket(socket.AF_UNIX) as rude:  # asks and asks and never reads
        rude.connect(path)
        rude.sendall(hello(protocol))
        rude.settimeout(10 * slow())
        try:
            for _ in range(20000):
                rude.sendall(frame(106, ask) * 20)
            pytest.fail("it is never cut off")
        except (BrokenPipeError, ConnectionResetError):
            pass
    many = [socket.socket(socket.AF_UNIX) for _ in range(64)]
    for s in many:
        s.connect(path)
    out, err = ray_memory(cluster, status=1)
    assert "too many ray commands" in err, err
    for s in many:
        s.close()
    agrees(cluster)
    program.say("end")
    assert program.wait() == 0


def test_two_users(cluster, public_build):
    """Each finds the own cluster, and asks the other's in vain, even if its folder is opened."""
    for name in ("bin/ray", "tests/drivers/memory"):
        shutil.copy(build_dir() / name, public_build / name)
        (public_build / name).chmod(0o755)
    env = {"RAY_TMPDIR": public_build / "temp"}
    programs, folders = {}, {}
    for user in (ANNA, BERT):
        programs[user] = cluster.start("/usr/bin/env", *as_user(user), public_build / "tests/drivers/memory", "many", 5,
                                       env=env)
        programs[user].expect(r"^ready$")
        folders[user] = max((public_build / "temp").glob("session_2*"), key=lambda p: p.stat().st_uid == user)

    def ask(user, *args, status=0):
        done = subprocess.run([*as_user(user), public_build / "bin/ray", "memory", "--format=json", *map(str, args)],
                              env=cluster.env(**env), capture_output=True, text=True, timeout=30 * slow(), check=False)
        assert done.returncode == status, done
        return done
    for user in (ANNA, BERT):
        assert json.loads(ask(user).stdout)["session_dir"] == str(folders[user])
    refused = ask(BERT, "--session-dir", folders[ANNA], status=1).stderr
    assert f"belongs to user {ANNA}" in refused and f"you are user {BERT}" in refused, refused
    for path in (folders[ANNA], folders[ANNA] / "sockets"):
        path.chmod(0o755)
    (folders[ANNA] / "sockets" / "raylet").chmod(0o777)
    refused = ask(BERT, "--session-dir", folders[ANNA], status=1).stderr
    assert f"belongs to user {ANNA}" in refused and f"you are user {BERT}" in refused, refused
    for user in (ANNA, BERT):
        finish(programs[user])
