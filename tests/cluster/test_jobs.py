# SPDX-License-Identifier: Apache-2.0
"""A raylet of its own and the programs that come and go: each has its job, none notices another's end."""
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from conftest import ANNA, BERT, GONE_S, as_user, build_dir, slow, wait_until
from test_idle import tell_the_machine
from test_raylet import DRIVER, ERROR, GONE, HEADER, HELLO, WELCOME, frame, hello

JOB_PART = 64


class Raylet:
    """One of its own; the session folder is known when it is ready."""

    def __init__(self, cluster, *options, num_cpus=2, **env):
        tell_the_machine(cluster)  # it measures nothing meanwhile
        self.cluster = cluster
        self.program = cluster.start(build_dir() / "bin" / "raylet", "--standalone", "--ready-fd=1",
                                     f"--num-cpus={num_cpus}", *options, env=env)
        self.pid = self.program.pid
        self.session = Path(self.program.expect(r"^(/.*)$").group(1))

    def driver(self, driver="jobs", address="auto", wait=True, **options):
        env = {"RAY_ADDRESS": address, **options.pop("env", {})}
        program = self.cluster.start(driver, env=env, **options)
        program.say("init 0" if driver == "hold" else "init")
        if wait:
            program.expect(r"^ok \d+$")
        return program

    def zygotes(self):
        return [p for p in self.cluster.zygotes() if p.parent == self.pid]

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident_kib(self):
        return int(re.search(r"^RssAnon:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.M).group(1))

    def stop(self):
        self.program.kill(signal.SIGTERM)
        assert self.program.wait() == 0, repr(self.program)
        self.cluster.all_gone()


@pytest.fixture
def raylet(cluster):
    r = Raylet(cluster)
    yield r
    if r.program.process.poll() is None:
        r.stop()


def ask(program, line, pattern=r"ok (-?\d+)", timeout=20):
    """The answer to this line: the next that matches."""
    before = len(program.out)
    program.say(line)
    end = time.monotonic() + timeout * slow()
    while True:
        found = re.search(rf"^{pattern}$|^error .*$", program.out[before:], re.M)
        if found:
            assert not found.group(0).startswith("error"), found.group(0)
            return found.groups()[0] if len(found.groups()) == 1 else found.groups()
        if program.process.poll() is not None or time.monotonic() > end:
            pytest.fail(f"no answer to {line!r}: {program!r}\n{program.cluster.state()}")
        time.sleep(0.002)


def facts(program):
    job, worker, session = ask(program, "facts", r"facts job (\w+) worker (\w+) session (.*)")
    return int.from_bytes(bytes.fromhex(job), "little"), worker, session


def leave(program):
    assert ask(program, "shutdown") == "0"
    program.say("exit 0")
    assert program.wait() == 0, repr(program)


def test_two_programs_at_once_have_their_own_workers(raylet):
    """Both call a function add_one: each gets its own."""
    one, two = raylet.driver("jobs"), raylet.driver("hold")
    assert ask(one, "tasks 500") == "500"
    assert ask(two, "task") == "42"
    assert ask(one, "task") == "1042"
    assert len(raylet.zygotes()) == 2
    two.say("session")
    assert two.expect(r"^session (.*)$").group(1) == str(raylet.session) == facts(one)[2]
    leave(two)
    assert len(raylet.zygotes()) == 1  # when ray_shutdown has returned
    assert ask(one, "tasks 100") == "100"
    leave(one)
    assert raylet.session.is_dir() and not raylet.zygotes()


def test_workers_have_their_drivers_folder_and_environment(raylet, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    env = raylet.cluster.env(RAY_ADDRESS="auto", JOBS_TAG="blue")
    program = raylet.cluster.start("/usr/bin/env", "-C", folder, raylet.cluster.program("jobs"),
                                   env={k: env[k] for k in ("RAY_ADDRESS", "JOBS_TAG")})
    program.say("late")
    assert int(ask(program, "init")) > 0
    ask(program, "tell")
    program.expect(rf"^\(tell pid=\d+\) tag blue late yes folder {folder}$")
    leave(program)


def test_prints_go_to_their_own_driver(raylet):
    blue = raylet.driver(env={"JOBS_TAG": "blue"})
    red = raylet.driver(env={"JOBS_TAG": "red"})
    for program in (blue, red, blue):
        ask(program, "tell")
    red.expect(r"\) tag red ")
    wait_until(lambda: blue.out.count(") tag blue ") == 2 or None, 10 * slow(), blue)
    assert "red" not in blue.out and "blue" not in red.out
    leave(blue)
    leave(red)


def test_twenty_programs_one_after_the_other(raylet):
    """Numbers are never given twice, and nothing of them stays in the raylet."""
    jobs, workers, sizes = [], set(), []
    idle = raylet.descriptors()
    for i in range(20):
        program = raylet.driver("jobs")
        assert ask(program, "tasks 50") == "50"
        ask(program, "put 3")
        job, worker, _ = facts(program)
        jobs.append(job)
        workers.add(worker)
        leave(program) if i % 2 else program.kill()
        wait_until(lambda: not raylet.zygotes() or None, GONE_S * slow(), "the job's end")
        wait_until(lambda: raylet.descriptors() <= idle or None, GONE_S * slow(), "its descriptors")
        sizes.append(raylet.resident_kib())
    assert jobs == list(range(1, 21)) and len(workers) == 20
    assert os.environ.get("SAN") or sizes[-1] <= sizes[4] + 256, sizes  # a sanitizer keeps what is freed


def test_a_program_dies_while_another_works(raylet):
    """kill -9 in the middle: its workers, what they forked and its memory are gone, the other is whole."""
    busy, dying = raylet.driver("jobs"), raylet.driver("jobs")
    ask(busy, "tasks 10")
    ask(dying, "put 20")
    ask(dying, "sleep 1")
    zygote = dying_zygote(raylet, dying)
    below = [p.pid for p in raylet.cluster.processes() if is_below(raylet.cluster, p, zygote)]
    assert len(below) >= 3  # zygote, worker, its child
    before = busy.out.count("ok ")
    busy.say("tasks 10000")
    dying.kill()
    wait_until(lambda: not set(below) & {p.pid for p in raylet.cluster.processes()} or None, GONE_S * slow(),
               "all of the job gone")
    wait_until(lambda: busy.out.count("ok ") > before or None, 60 * slow(), busy)
    assert busy.out.rstrip().endswith("ok 10000")
    leave(busy)


def is_below(cluster, process, pid):
    by_pid = {p.pid: p for p in cluster.processes()}
    while process is not None and process.pid != pid:
        process = by_pid.get(process.parent)
    return process is not None


def dying_zygote(raylet, program):
    """The zygote of that program's job: its log says so."""
    number = facts(program)[0].to_bytes(4, "little").hex()
    log = str(raylet.session / "logs" / f"zygote-{number}.err")
    found = [z.pid for z in raylet.zygotes() if os.readlink(f"/proc/{z.pid}/fd/2") == log]
    assert len(found) == 1
    return found[0]


def refused(program, *words, timeout=20):
    """The next error line holds these words."""
    line = program.expect(r"^error (\d+ .*)$", timeout).group(1)
    for word in words:
        assert word in line, f"{word!r} not in: {line}"
    return int(line.split()[0])


EARG, EFULL, ELINK = 3, 6, 16


# --- finding a cluster ---

def test_auto_without_a_cluster_says_what_to_do(cluster):
    private = cluster.start("hold")  # its session is no cluster for others
    private.say("init 2")
    private.expect(r"^ok \d+$")
    program = cluster.start("jobs", env={"RAY_ADDRESS": "auto"})
    program.say("init")
    assert refused(program, "auto", "no cluster of this user", str(cluster.temp), "1 session folder ") == ELINK
    for end in (program, private):
        end.say("exit 0")
        assert end.wait() == 0


def test_auto_is_the_newest_that_lives(cluster):
    old, new = Raylet(cluster), Raylet(cluster)
    private = cluster.start("hold")
    private.say("init 2")
    private.expect(r"^ok \d+$")
    one = new.driver()
    assert facts(one)[2] == str(new.session)
    two = old.driver(address=old.session)
    three = old.driver(address=old.session / "sockets" / "raylet")
    for program in (two, three):
        assert facts(program)[2] == str(old.session)
        leave(program)
    leave(one)
    private.say("shutdown")
    private.say("exit 0")
    assert private.wait() == 0
    new.program.kill()  # with no job nobody is left to remove its folder
    assert new.session.is_dir()
    one = old.driver()
    assert facts(one)[2] == str(old.session)
    leave(one)
    private = cluster.start("hold")  # sweeps it
    private.say("init 2")
    private.expect(r"^ok \d+$")
    assert not new.session.exists()
    private.say("exit 0")
    assert private.wait() == 0
    old.stop()


@pytest.mark.parametrize("address, words", [
    ("/nowhere/session", ("/nowhere/session", "No such file", "auto")),
    ("/dev/null", ("/dev/null", "refused")),
    ("127.0.0.1:1", ("127.0.0.1:1", "nothing listens there")),
    ("/" + "x" * 600, ("longer than",)),
])
def test_an_address_where_nothing_is(cluster, address, words):
    program = cluster.start("jobs", env={"RAY_ADDRESS": address, "RAY_AUTH_TOKEN": "x", "RAY_connect_timeout_ms": 300})
    program.say("init")
    refused(program, *words)
    program.say("exit 0")
    assert program.wait() == 0


def test_the_clusters_cpus_are_not_the_programs_to_say(raylet):
    program = raylet.cluster.start("hold", env={"RAY_ADDRESS": "auto"})
    program.say("init 2")
    assert refused(program, "num_cpus", "local") == EARG
    program.say("init 0")
    program.expect(r"^ok \d+$")
    program.say("shutdown")
    program.say("init 0")  # and again
    program.say("task")
    program.expect(r"^ok 42$")
    program.say("shutdown")
    program.say("exit 0")
    assert program.wait() == 0


def test_a_folder_that_was_there_stays(cluster):
    folder = cluster.path / "mine"
    folder.mkdir(mode=0o700)
    (folder / "notes").write_text("keep")
    one = Raylet(cluster, f"--session-dir={folder}")
    assert one.session == folder
    two = cluster.start(build_dir() / "bin" / "raylet", f"--session-dir={folder}")
    assert two.wait() == 1 and "is running" in two.err
    one.program.kill()
    one.program.wait()
    assert (folder / "sockets" / "raylet").exists()
    again = Raylet(cluster, f"--session-dir={folder}")  # where the killed one's socket lies
    program = again.driver(address=folder)
    assert ask(program, "task") == "1042"
    leave(program)
    again.stop()
    assert {p.name for p in folder.iterdir()} == {"notes", "logs", "sockets"} and not list(
        (folder / "sockets").iterdir())


@pytest.mark.parametrize("make, words", [
    (lambda path: path.mkdir(mode=0o755), "chmod 700"),
    (lambda path: path.write_text(""), "no folder"),
    (lambda path: path.symlink_to("/tmp"), "no folder"),
])
def test_a_session_folder_that_others_could_enter(cluster, make, words):
    path = cluster.path / "folder"
    make(path)
    program = cluster.start(build_dir() / "bin" / "raylet", f"--session-dir={path}")
    assert program.wait() == 1 and words in program.err


# --- ends ---

def test_raylet_killed(raylet):
    one, two = raylet.driver(), raylet.driver("hold")
    ask(one, "put 2")
    ask(one, "sleep 1")
    assert ask(two, "task") == "42"
    raylet.program.kill()
    one.say("get 1")
    assert refused(one, "raylet") == ELINK
    two.say("task")
    assert refused(two, "raylet") == ELINK
    wait_until(lambda: {p.pid for p in raylet.cluster.processes()} == {one.pid, two.pid} or None, GONE_S * slow(),
               "only the programs are left")
    assert not raylet.session.exists()
    leave(one)
    two.say("exit 0")
    assert two.wait() == 0


def test_raylet_told_to_end(raylet):
    program = raylet.driver()
    ask(program, "sleep 2")
    raylet.program.kill(signal.SIGTERM)
    program.say("get 0")
    assert refused(program, "the cluster was stopped") == ELINK
    assert raylet.program.wait() == 0
    leave(program)
    raylet.cluster.all_gone()


def test_a_driver_that_execs_has_ended(raylet):
    """The process lives on, its job does not."""
    program = raylet.driver()
    ask(program, "sleep 1")
    program.say("exec")
    wait_until(lambda: not raylet.zygotes() or None, GONE_S * slow(), "its job's end")
    assert program.process.poll() is None
    program.kill()


def test_a_zygote_that_is_killed_is_its_own_jobs_matter(raylet):
    one, two = raylet.driver(), raylet.driver()
    pids = set()
    for program in (one, two):
        assert ask(program, "tasks 50") == "50"
    pids = {p.pid for p in raylet.cluster.processes() if is_below(raylet.cluster, p, dying_zygote(raylet, two))}
    os.kill(dying_zygote(raylet, one), signal.SIGKILL)
    assert ask(one, "tasks 50") == "50"
    assert ask(two, "tasks 50") == "50"
    assert pids <= {p.pid for p in raylet.cluster.processes()} and len(pids) >= 2
    leave(one)
    leave(two)


def test_workers_that_said_nothing_leave_no_logs(raylet):
    program = raylet.driver()
    assert ask(program, "tasks 50") == "50"
    ask(program, "tell")
    program.expect(r"tag none")
    leave(program)
    logs = raylet.session / "logs"
    wait_until(lambda: not raylet.zygotes() or None, GONE_S * slow(), "its end")
    left = list(logs.glob("worker-*"))
    assert left and all(log.stat().st_size > 0 for log in left), left


def test_a_zygote_that_does_not_end_is_killed(raylet):
    program = raylet.driver()
    assert ask(program, "task") == "1042"
    os.kill(raylet.zygotes()[0].pid, signal.SIGSTOP)
    program.kill()
    wait_until(lambda: not raylet.zygotes() or None, GONE_S * slow(), "its end")
    other = raylet.driver()
    assert ask(other, "tasks 100") == "100"
    leave(other)


# --- sharing ---

def test_a_job_that_waits_gets_its_turn(raylet):
    busy, late = raylet.driver("hold"), raylet.driver("hold")
    busy.say("start spin 6000")
    busy.say("get 0")
    busy.expect(r"^ok 1$")
    busy.say("get 5999")
    for _ in range(5):
        late.say("task")
    late.expect(r"(?s)(ok 42.*){5}", 60)
    assert busy.out.count("ok 1\n") == 1, "the first job is still at it"
    busy.expect(r"(?s)(ok 1\n.*){2}", 60)
    for program in (busy, late):
        program.say("shutdown")
        program.say("exit 0")
        assert program.wait() == 0


def test_ten_programs_at_once(raylet):
    programs = [raylet.driver(wait=False) for _ in range(10)]
    for program in programs:
        program.say("tasks 300")
    for program in programs:
        program.expect(r"^ok 300$", 60)
    assert sorted(facts(p)[0] for p in programs) == list(range(1, 11))
    for program in programs:
        program.say("shutdown")
        program.say("exit 0")
    for program in programs:
        assert program.wait() == 0, repr(program)


@pytest.fixture
def small(cluster):
    r = Raylet(cluster, "--object-store-memory=100000000")
    yield r
    r.stop()


@pytest.mark.parametrize("line", ["put 60", "own 60"])
def test_memory_of_a_killed_program_is_free(small, line):
    for _ in range(3):
        program = small.driver()
        ask(program, line)
        program.kill()


def test_a_child_keeps_the_memory_that_it_has_mapped(small):
    dead, other = small.driver(), small.driver()
    ask(dead, "put 60")
    child = int(ask(dead, "fork"))
    dead.kill()
    wait_until(lambda: len(small.zygotes()) == 1 or None, GONE_S * slow(), "its job's end")
    other.say("put 60")
    assert refused(other, "full") == EFULL
    os.kill(child, signal.SIGKILL)
    before = other.out.count("ok 60")
    other.say("put 60")
    wait_until(lambda: other.out.count("ok 60") > before or None, 10 * slow(), other)
    leave(other)


# --- foreign programs ---

class Stranger:
    """Speaks to the session's socket by hand."""

    def __init__(self, raylet):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        folder = os.open(raylet.session / "sockets", os.O_PATH)
        self.socket.connect(f"/proc/self/fd/{folder}/raylet")
        os.close(folder)
        self.bytes = b""

    def send(self, data, *fds):
        if fds:
            socket.send_fds(self.socket, [data], list(fds))
        else:
            self.socket.sendall(data)

    def next(self):
        while True:
            if len(self.bytes) >= 16:
                length = int.from_bytes(self.bytes[:4], "little")
                if len(self.bytes) >= length:
                    data, self.bytes = self.bytes[:length], self.bytes[length:]
                    return data[4], data[16:]
            try:
                more, fds, _, _ = socket.recv_fds(self.socket, 65536, 16)
            except ConnectionResetError:
                more, fds = b"", []
            for fd in fds:
                os.close(fd)
            if not more:
                return GONE, b""
            self.bytes += more

    def until(self, kind):
        while True:
            found, body = self.next()
            if found == kind or found is GONE:
                return found, body

    def introduce(self, executable, folder=None, environment=None):
        """What a program sends first, or what is given in its place."""
        fds = [os.open("/", os.O_PATH) if folder is None else folder,
               sealed(b"PATH=/bin\0") if environment is None else environment,
               os.open(executable, os.O_RDONLY)]
        for part, fd in enumerate(fds[:2]):
            self.send(frame(JOB_PART, part.to_bytes(4, "little"), flags=1), fd)
        self.send(with_fd(hello()), fds[2])
        for fd in fds:
            os.close(fd)


def with_fd(data):
    return data[:5] + b"\1" + data[6:]


def sealed(data, seals=0xf):
    fd = os.memfd_create("environment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    import fcntl
    fcntl.fcntl(fd, 1033, seals)
    return fd


@pytest.mark.parametrize("data", [
    b"\xff" * 64,
    frame(HELLO, b"", length=3),
    frame(HELLO, b"\1\0\0\0"),
    hello(),                                         # with nothing that workers are made of
    hello(protocol=77),
    frame(250, b"hello?"),
    frame(16, b"\0" * 20),                           # a request before HELLO
    frame(JOB_PART, b"\0" * 4) + frame(JOB_PART, b"\xff" * 4) + frame(JOB_PART) + hello(),
    frame(61),                                       # LEAVE
    hello()[:20],
    os.urandom(4096),
], ids=["noise", "length 3", "short hello", "bare hello", "version", "unknown type", "request", "empty parts", "leave",
        "cut", "random"])
def test_a_foreign_program_speaks_garbage(raylet, data):
    idle = raylet.descriptors()
    program = raylet.driver()
    stranger = Stranger(raylet)
    stranger.send(data)
    stranger.socket.shutdown(socket.SHUT_WR)
    assert stranger.until(WELCOME)[0] is GONE
    assert ask(program, "tasks 20") == "20"
    leave(program)
    wait_until(lambda: raylet.descriptors() <= idle or None, GONE_S * slow(), "its descriptors")


@pytest.mark.parametrize("part, words", [
    (lambda: {"folder": os.open("/dev/null", os.O_RDONLY)}, b"folder"),
    (lambda: {"environment": sealed(b"A=1\0", 0)}, b"sealed"),
    (lambda: {"environment": os.open("/etc/passwd", os.O_RDONLY)}, b"sealed"),
    (lambda: {"environment": sealed(b"A" * (5 << 20))}, b"unset"),
    (lambda: {"executable": "/dev/zero"}, b"regular file"),
])
def test_a_program_made_of_the_wrong_parts(raylet, part, words):
    idle = raylet.descriptors()
    stranger = Stranger(raylet)
    stranger.introduce(**{"executable": raylet.cluster.program("jobs"), **part()})
    kind, body = stranger.until(ERROR)
    assert kind == ERROR and words in body[4:], body
    stranger.until(GONE)
    stranger.socket.close()
    wait_until(lambda: raylet.descriptors() <= idle or None, GONE_S * slow(), "its descriptors")
    program = raylet.driver()
    assert ask(program, "task") == "1042"
    leave(program)


def test_an_executable_that_is_no_program(raylet):
    """The driver is welcome; that no worker can be made of it is told to its first task."""
    stranger = Stranger(raylet)
    stranger.introduce("/etc/passwd")
    assert stranger.until(WELCOME)[0] == WELCOME
    body = (1).to_bytes(8, "little") + (1).to_bytes(4, "little") + bytes(8) + b"work"
    stranger.send(frame(16, body))
    kind, body = stranger.until(21)
    assert kind == 21 and b"executable" in body, body
    stranger.send(frame(61))
    assert stranger.until(4)[0] == 4  # GOODBYE
    stranger.socket.close()
    program = raylet.driver()
    assert ask(program, "task") == "1042"
    leave(program)


def test_a_process_of_another_job_is_out_of_reach(raylet):
    program = raylet.driver()
    assert ask(program, "task") == "1042"
    stranger = Stranger(raylet)
    stranger.introduce(raylet.cluster.program("jobs"))
    assert stranger.until(WELCOME)[0] == WELCOME
    for number in range(1, 4):  # the program's, and its workers'
        stranger.send(HEADER.pack(24, 113, 0, 0, 0x80000000 | number, 0) + bytes(8))  # WANT
        kind, body = stranger.until(103)
        assert kind == 103 and int.from_bytes(body[:4], "little") == number, (kind, body)
    stranger.socket.close()
    leave(program)


def test_silent_connections_are_bounded_and_end(raylet):
    strangers = [Stranger(raylet) for _ in range(64)]
    one_more = Stranger(raylet)
    kind, body = one_more.until(ERROR)
    assert kind == ERROR and b"try again" in body
    for stranger in strangers:
        kind, body = stranger.until(ERROR)
        assert kind == ERROR and b"HELLO" in body
    program = raylet.driver()
    assert ask(program, "task") == "1042"
    leave(program)


def test_a_raylet_without_descriptors_says_so(cluster):
    script = f"ulimit -n 48; exec {build_dir() / 'bin' / 'raylet'} --standalone --ready-fd=1 --num-cpus=1"
    raylet = Raylet.__new__(Raylet)
    raylet.cluster, raylet.program = cluster, cluster.start("/bin/sh", "-c", script)
    raylet.pid = raylet.program.pid
    raylet.session = Path(raylet.program.expect(r"^(/.*)$").group(1))
    program = raylet.driver()
    assert ask(program, "task") == "1042"
    strangers = [Stranger(raylet) for _ in range(30)]
    kind, body = strangers[-1].next()
    assert kind == ERROR and b"ulimit -n" in body, body
    assert ask(program, "tasks 50") == "50"
    for stranger in strangers:
        stranger.socket.close()
    leave(program)
    wait_until(lambda: not raylet.zygotes() or None, GONE_S * slow(), "the job's end")
    program = raylet.driver()
    assert ask(program, "task") == "1042"
    leave(program)
    raylet.stop()


# --- users ---

def test_two_users(cluster, public_build):
    """Each has a cluster of its own; nobody, root neither, joins another's."""
    def raylet_of(user):
        program = cluster.start("/usr/bin/env", *as_user(user), public_build / "bin/raylet", "--standalone",
                                "--ready-fd=1", "--num-cpus=1", env={"RAY_TMPDIR": public_build / "temp"})
        return program, Path(program.expect(r"^(/.*)$").group(1))

    def driver_of(user, address):
        program = cluster.start("/usr/bin/env", *(as_user(user) if user else []), public_build / "tests/drivers/hold",
                                env={"RAY_TMPDIR": public_build / "temp", "RAY_ADDRESS": address})
        program.say("init 0")
        return program

    annas, session = raylet_of(ANNA)
    berts, other = raylet_of(BERT)
    for user, folder in ((ANNA, session), (BERT, other)):
        program = driver_of(user, "auto")
        program.say("session")
        assert program.expect(r"^session (.*)$").group(1) == str(folder)
        program.say("task")
        program.expect(r"^ok 42$")
        program.say("shutdown")
        program.say("exit 0")
        assert program.wait() == 0
    for user, word in ((BERT, "denied"), (0, f"another user (uid {ANNA})")):
        program = driver_of(user, session)
        refused_hold(program, word)
        program.say("exit 0")
        assert program.wait() == 0
    raylet = Raylet.__new__(Raylet)
    raylet.session = session
    stranger = Stranger(raylet)  # root, who does not care who the raylet is
    stranger.introduce(public_build / "tests/drivers/hold")
    kind, body = stranger.until(ERROR)
    assert kind == ERROR and b"another user" in body, body
    for program in (annas, berts):
        os.kill(program.pid, signal.SIGTERM)
        assert program.wait() == 0
    cluster.all_gone()


def refused_hold(program, word):
    line = program.expect(r"^error \d+ signal \d+ (.*)$").group(1)
    assert word in line, line


# --- what holds for a cluster of one program holds here ---

def test_ray_memory_shows_the_refs_of_all_jobs(raylet):
    one, two = raylet.driver(), raylet.driver()
    for program in (one, two):
        ask(program, "put 1")
    ray = raylet.cluster.run(build_dir() / "bin" / "ray", "memory", f"--temp-dir={raylet.cluster.temp}")
    for program in (one, two):
        number = facts(program)[0].to_bytes(4, "little").hex()
        assert re.search(rf" {program.pid} +Driver .*[0-9a-f]{{40}}{number}[0-9a-f]{{8}}$", ray.out, re.M), ray.out
    leave(one)
    leave(two)



SCENARIOS = {"semantics": "rendezvous spread orphans nested get_many many_arguments returns waits polls error_argument "
                          "stale bad_options bad_values prints threads watches",
             "refs": "nested returned large pending orders held_by_others many many_views misuse owner_dies"}


@pytest.mark.parametrize("driver", SCENARIOS)
def test_scenarios_in_a_cluster_that_runs_already(cluster, driver):
    raylet = Raylet(cluster, "--object-store-memory=100000000", num_cpus=5)
    for name in SCENARIOS[driver].split():
        cluster.run(driver, name, env={"RAY_ADDRESS": "auto"}, timeout=60)
    raylet.stop()
