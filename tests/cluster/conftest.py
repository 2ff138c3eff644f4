# SPDX-License-Identifier: Apache-2.0
"""Runs driver programs of tests/drivers as a user would and checks after each test that nothing is left.

Every process of a test is known by a mark in its environment, which raylets, zygotes, workers and whatever tasks
start inherit. This process is a subreaper, so that what a broken program leaves behind arrives here.
"""
import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path

import pytest

# gRPC waits before each fork until its own threads rest, and may do so for ever; our children only exec.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

PR_SET_CHILD_SUBREAPER = 36
ROOT = Path(__file__).resolve().parents[2]
MARK = "RAY_TEST_MARK"
# Users of this test process alone: limits on processes count all that a user has.
ANNA, BERT, CARL = (10000 + 3 * (os.getpid() % 16000) + n for n in range(3))
GONE_S = 2.0  # after the end of a program, whatever end, nothing of it remains


def build_dir():
    named = os.environ.get("RAY_TEST_BUILD") or os.environ.get("BUILD") or "build"
    return (ROOT / named).resolve()


def library_dir():
    return build_dir() / "lib"


def as_user(uid):
    """What runs a command as another user; skips the test if we may not."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    return ["/usr/bin/setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]


@pytest.fixture
def public_build():
    """The build as other users may read it, with a folder "temp" as /tmp is."""
    folder = Path(tempfile.mkdtemp(prefix="ray-public-", dir="/tmp"))
    for name in ("bin/ray", "bin/raylet", "bin/gcs_server", "lib/libray.so.1", "tests/drivers/hold"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(build_dir() / name, folder / name)
    temp = folder / "temp"
    temp.mkdir()
    temp.chmod(0o1777)
    for path in folder.rglob("*"):
        if path != temp:
            path.chmod(0o755)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: loads the machine so much that others would fail beside it")
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_until(condition, timeout, what=""):
    """The first true value of condition(); after timeout seconds a failure that shows the last one."""
    deadline = time.monotonic() + timeout
    while True:
        last = condition()
        if last:
            return last
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s: {what or condition}; last state: {last!r}")
        time.sleep(0.005)


def slow():
    """How many times longer things take in this build."""
    return 10 if os.environ.get("SAN") else 1


class Process:
    """What /proc says of a live process; zombies do not count."""

    def __init__(self, pid, parent, state, name, command, memfds):
        self.pid, self.parent, self.state, self.name, self.command, self.memfds = (
            pid, parent, state, name, command, memfds)

    def __repr__(self):
        return f"<{self.pid} {self.name} parent={self.parent} {self.state} {self.command[:60]}>"


def processes(mark):
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            environ = Path(f"/proc/{entry}/environ").read_bytes()
            if f"{MARK}={mark}".encode() not in environ.split(b"\0"):
                continue
            stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        name = stat[stat.index("(") + 1:stat.rindex(")")]
        state, parent = stat[stat.rindex(")") + 2:].split()[:2]
        if state not in "ZX":
            found.append(Process(int(entry), int(parent), state, name, command, memfds_of(entry)))
    return found


def memfds_of(pid):
    try:
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []
    return [link for link in links if link.startswith("/memfd:")]


class Program:
    """A running driver. Its stdout and stderr are collected by threads, so that it never blocks on us."""

    def __init__(self, cluster, argv, env, **options):
        self.cluster = cluster
        self.argv = argv
        self.process = subprocess.Popen(
            argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        self.pid = self.process.pid
        self.started = time.monotonic()
        self.chunks = {"out": [], "err": []}
        self.threads = [threading.Thread(target=self._collect, args=pair, daemon=True)
                        for pair in ((self.process.stdout, "out"), (self.process.stderr, "err"))]
        for thread in self.threads:
            thread.start()

    def _collect(self, stream, name):
        while True:
            data = os.read(stream.fileno(), 65536)
            if not data:
                return
            self.chunks[name].append(data)

    @property
    def out(self):
        return b"".join(self.chunks["out"]).decode(errors="replace")

    @property
    def err(self):
        return b"".join(self.chunks["err"]).decode(errors="replace")

    def __repr__(self):
        return f"{' '.join(map(str, self.argv))}\n--- stdout\n{self.out[-3000:]}\n--- stderr\n{self.err[-3000:]}"

    def expect(self, pattern, timeout=10):
        """Wait for a line of stdout that matches; the match."""
        def search():
            return re.search(pattern, self.out, re.M)
        deadline = time.monotonic() + timeout * slow()
        while True:
            found = search()
            if found:
                return found
            if self.process.poll() is not None:
                self.wait()
                found = search()
                if found:
                    return found
                pytest.fail(f"ended with {self.process.returncode} without printing {pattern!r}: {self!r}")
            if time.monotonic() > deadline:
                pytest.fail(f"{pattern!r} not printed in time: {self!r}\n{self.cluster.state()}")
            time.sleep(0.005)

    def say(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        if sig == signal.SIGKILL:
            self.process.wait()

    def wait(self, timeout=30):
        """The exit status, when all output is read."""
        try:
            self.process.wait(timeout * slow())
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout * slow()} s: {self!r}\n{self.cluster.state()}")
        for thread in self.threads:
            thread.join(5)
        if not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except OSError:
                pass
        return self.process.returncode


class Cluster:
    """A private temp folder and the programs that run in it."""

    def __init__(self, path):
        self.path = path
        self.temp = path / "ray"
        self.temp.mkdir()
        self.mark = uuid.uuid4().hex
        self.programs = []
        self.announced = []
        self.sanitizer_logs = path / "sanitizer"
        self.sanitizer_logs.mkdir()
        self.log_files = {}
        self.watching = True
        self.watcher = threading.Thread(target=self._watch_logs, daemon=True)
        self.watcher.start()

    def _watch_logs(self):
        """A raylet removes its session with its log: an open file stays readable."""
        while self.watching:
            try:
                for path in self.temp.glob("session_2*/logs/raylet*"):
                    if str(path) not in self.log_files:
                        self.log_files[str(path)] = path.open("rb")
            except OSError:
                pass  # a session went away under the search
            time.sleep(0.01)

    def env(self, **extra):
        env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        env[MARK] = self.mark
        env["RAY_TMPDIR"] = str(self.temp)
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"):
            options = os.environ.get(name, "")
            env[name] = f"{options}:log_path={self.sanitizer_logs}/{name[:4].lower()}".lstrip(":")
        env["ASAN_OPTIONS"] += ":handle_segv=0:handle_abort=0:detect_stack_use_after_return=0"
        env["TSAN_OPTIONS"] += ":handle_segv=0:handle_abort=0"
        env.update({k: str(v) for k, v in extra.items()})
        return env

    def program(self, driver):
        path = Path(driver)
        if not path.is_absolute():
            path = build_dir() / "tests" / "drivers" / driver
        if not path.exists():
            pytest.fail(f"{path} is not built: run make, or set RAY_TEST_BUILD to the build folder")
        return path

    def start(self, driver, *args, env=None, **options):
        argv = [str(self.program(driver)), *map(str, args)]
        program = Program(self, argv, self.env(**(env or {})), cwd=self.path, **options)
        self.programs.append(program)
        return program

    def run(self, driver, *args, status=0, timeout=30, env=None):
        """Run to the end; a driver prints what failed and says so by its exit status."""
        program = self.start(driver, *args, env=env)
        code = program.wait(timeout)
        assert code == status, f"exit status {code}, not {status}: {program!r}"
        return program

    def announce(self, pattern):
        """Lines of level broken or err that this test causes on purpose."""
        self.announced.append(pattern)

    def processes(self):
        return processes(self.mark)

    def named(self, name, program=None):
        """Live processes whose name begins so; below this program if given."""
        everything = self.processes()
        by_pid = {p.pid: p for p in everything}

        def is_below(process):
            while process is not None and process.pid != program.pid:
                process = by_pid.get(process.parent)
            return process is not None
        return [p for p in everything if p.name.startswith(name) and (program is None or is_below(p))]

    def zygotes(self, program=None):
        return self.named("ray::zygote", program)

    def zygote(self, program):
        """Its first one. A raylet answers its driver before that runs."""
        return wait_until(lambda: self.zygotes(program), 10 * slow(), "its zygote")[0]

    def workers(self, program=None):
        zygotes = {z.pid for z in self.zygotes(program)}
        return [p for p in self.processes() if p.parent in zygotes]

    def sessions(self):
        return sorted(p for p in self.temp.iterdir() if p.name.startswith("session_2"))

    def logs(self):
        text = ""
        for file in list(self.log_files.values()):
            file.seek(0)
            text += file.read().decode(errors="replace")
        return text

    def state(self):
        lines = [repr(p) for p in self.processes()] + [str(s) for s in self.sessions()]
        return "--- processes and sessions\n" + "\n".join(lines) + "\n--- raylet log\n" + self.logs()[-3000:]

    def all_gone(self, timeout=GONE_S):
        """Nothing of this test is left: no process, no session folder."""
        def is_gone():
            self.reap()
            left = self.processes()
            return not left and not self.sessions() or None
        deadline = time.monotonic() + timeout * slow()
        while not is_gone():
            if time.monotonic() > deadline:
                pytest.fail(f"left after {timeout * slow()} s:\n{self.state()}")
            time.sleep(0.01)

    def processes_gone(self, timeout=GONE_S):
        wait_until(lambda: self.reap() or not self.processes() or None, timeout * slow(), "all processes gone")

    def kill_at_once(self, is_meant=lambda process: True):
        """A stopped process can neither clean up nor start another: stop all, then kill them. Their pids."""
        def all_stopped():
            meant = [p for p in self.processes() if is_meant(p)]
            moving = [p for p in meant if p.state not in "Tt"]
            for process in moving:
                try:
                    os.kill(process.pid, signal.SIGSTOP)
                except ProcessLookupError:
                    pass
            return not moving and meant
        meant = wait_until(all_stopped, 5 * slow(), "all are stopped")
        for process in meant:
            os.kill(process.pid, signal.SIGKILL)
        return {p.pid for p in meant}

    def reap(self):
        """Orphans that came to us; Popen's own children are left to Popen."""
        own = {p.pid for p in self.programs if p.process.returncode is None}
        for process in os.listdir("/proc"):
            if not process.isdigit() or int(process) in own:
                continue
            try:
                stat = Path(f"/proc/{process}/stat").read_text(errors="replace")
                state, parent = stat[stat.rindex(")") + 2:].split()[:2]
                if int(parent) == os.getpid() and state == "Z":
                    os.waitpid(int(process), os.WNOHANG)
            except (OSError, ValueError):
                continue

    def finish(self):
        """Problems that a test must not leave; kills what is there."""
        problems = []
        for program in self.programs:
            if program.process.poll() is None:
                problems.append(f"still running: {program!r}")
                program.kill()
            program.wait()
        deadline = time.monotonic() + GONE_S * slow()
        while self.processes() and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.01)
        left = self.processes()
        if left:
            problems.append(f"processes left: {left}")
            memfds = [(p.pid, p.memfds) for p in left if p.memfds]
            if memfds:
                problems.append(f"memfds left: {memfds}")
        for process in left:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        wait_until(lambda: self.reap() or not self.processes() or None, 5, "killed processes gone")
        text = self.logs() + "".join(p.err for p in self.programs)
        self.watching = False
        self.watcher.join()
        for file in self.log_files.values():
            file.close()
        for line in text.splitlines():
            if "level=broken" in line and not any(re.search(a, line) for a in self.announced):
                problems.append(f"broken line: {line}")
        if self.sessions():
            problems.append(f"session folders left: {self.sessions()}")
        for path in self.sanitizer_logs.iterdir():
            problems.append(f"{path.name}:\n{path.read_text(errors='replace')[:4000]}")
        return problems


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if call.when == "call":
        item.has_failed = report.failed


@pytest.fixture
def cluster(tmp_path, request):
    c = Cluster(tmp_path)
    yield c
    problems = c.finish()
    if problems and not getattr(request.node, "has_failed", True):  # what failed first says it all
        pytest.fail("\n".join(problems))
    if not problems and not getattr(request.node, "has_failed", True):  # else it is looked at
        shutil.rmtree(tmp_path, ignore_errors=True)
