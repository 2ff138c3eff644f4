# SPDX-License-Identifier: Apache-2.0
"""Who does not read holds up nobody else, and costs its raylet no more than the allotments of those who talk to it."""
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import slow, wait_until
from test_jobs import ask
from test_machines import leave, machines  # noqa: F401: a fixture

SIZE = 20_000  # of arguments and results: they travel in frames
ALL = 4000  # 80 MB
TALLY = r"tally (\d+ \d+)"
ALLOTMENT = 256 << 10  # of one process to another


def stat(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def resident(pid):
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def wait_until_quiet(pids, what):
    """They have nothing more to do."""
    def ticks():
        return [stat(pid)[11:13] for pid in pids]
    last, since = ticks(), time.monotonic()

    def is_quiet():
        nonlocal last, since
        now = ticks()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 0.3
    wait_until(is_quiet, 60 * slow(), what)


def workers_of(cluster, node):
    return [w.pid for w in cluster.workers(node.program)]


def begin(program, what, n, resources):
    assert ask(program, f"{what} {n} {SIZE} {resources}", timeout=60)


def collect(program, n):
    assert ask(program, f"collect {n}", timeout=60) == str(n * SIZE)


def stop_behind(program, n, resources):
    """It has submitted so many tasks with small arguments, and stops at once."""
    program.say(f"grow {n} {SIZE} {resources}\nstop")
    wait_until(lambda: stat(program.pid)[0] == "T" or None, 60 * slow(), "it is stopped")


def test_a_stopped_worker_holds_up_nobody(machines):  # noqa: F811
    a, b, c = (machines.add(name, resources=f"{name}:1000000") for name in "abc")
    machines.all_see()
    program = a.driver()
    begin(program, "echo", 100, "b=20")
    collect(program, 100)
    stopped = workers_of(machines.cluster, b)
    assert stopped
    before = resident(b.pid)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    begin(program, "echo", 2000, "b=20")
    for name in "ac":
        begin(program, "echo", 200, f"{name}=50")
        collect(program, 200)
    if slow() == 1:
        assert resident(b.pid) - before < 3 * len(stopped) * (ALLOTMENT + SIZE)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    collect(program, 2000)
    leave(program)


def test_a_stopped_program_finds_its_results(machines):  # noqa: F811
    """As by Ctrl-Z, or in a debugger: many workers elsewhere have more to say than its raylet would keep for it."""
    a, b = (machines.add(name, resources=f"{name}:1000000") for name in "ab")
    machines.all_see()
    program = a.driver()
    begin(program, "grow", 3000, "b=4")  # their windows are full from now on
    collect(program, 3000)
    before = resident(a.pid)
    stop_behind(program, ALL, "b=4")
    workers = workers_of(machines.cluster, b)
    wait_until_quiet([a.pid, b.pid] + workers, "no result moves any more")
    if slow() == 1:
        assert resident(a.pid) - before < 3 * len(workers) * (ALLOTMENT + SIZE)
    program.kill(signal.SIGCONT)
    collect(program, ALL)
    leave(program)


def test_a_stopped_program_keeps_no_cpu(machines):  # noqa: F811
    """Its workers elsewhere make way for another program's, though it has not read their results."""
    a, b = machines.add("a", num_cpus=0), machines.add("b")
    machines.all_see()
    program = a.driver()
    begin(program, "grow", 3000, "CPU")
    collect(program, 3000)
    stop_behind(program, ALL, "CPU")
    wait_until_quiet([a.pid, b.pid] + workers_of(machines.cluster, b), "no result moves any more")
    other = b.driver()
    begin(other, "grow", 100, "CPU")
    collect(other, 100)
    leave(other)
    program.kill(signal.SIGCONT)
    collect(program, ALL)
    leave(program)


@pytest.mark.parametrize("dies", [False, True])
def test_what_a_stopped_program_has_not_read_runs_once(machines, dies):  # noqa: F811
    """Its workers on its own node make way, but are not lent again, nor sent away: their results lie in full sockets."""
    n, node = 500, machines.add("a")
    program = node.driver()
    assert ask(program, "once_at_length 3000 0 /dev/null")  # their windows are full from now on
    assert ask(program, "tally 3000", TALLY, timeout=60) == "3000 0"
    workers = workers_of(machines.cluster, node)
    path = machines.cluster.path / "ran"
    program.say(f"once_at_length {n} 0 {path}\nstop")
    wait_until(lambda: stat(program.pid)[0] == "T" or None, 60 * slow(), "it is stopped")
    wait_until_quiet([node.pid] + workers, "no result moves any more")
    other = node.driver()
    begin(other, "grow", 100, "CPU")
    collect(other, 100)
    leave(other)
    if dies:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
    program.kill(signal.SIGCONT)
    right, crashed = map(int, ask(program, f"tally {n}", TALLY, timeout=60).split())
    assert right + crashed == n and (dies or crashed == 0), (right, crashed)
    assert sorted(map(int, path.read_text().split())) == list(range(n))
    leave(program)
