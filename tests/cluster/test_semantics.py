# SPDX-License-Identifier: Apache-2.0
"""What tasks, get, wait and arguments mean (tests/drivers/semantics.c)."""
import os
import re

import pytest


@pytest.mark.parametrize("scenario", [
    "rendezvous",      # four tasks that wait for each other on four CPUs (INV-16: each lease holds its own)
    "spread",          # ... also behind many short tasks of the same function
    "orphans",         # ... also when the body that submitted them has returned
    "elsewhere",       # INV-33: who asks an owner gets an answer, whatever its program does
    "nested",          # INV-20, INV-21: blocked workers give their CPU back, 50 levels deep on 2 CPUs
    "get_many",
    "many_arguments",  # INV-8: arguments are counted before the call returns
    "returns",
    "waits",
    "polls",
    "error_argument",
    "stale",
    "bad_options",
    "bad_values",
    "resources",
    "threads",
    "watches",         # INV-14, INV-33: a waiter is told when, and only when, the value is there
])
def test_scenario(cluster, scenario):
    cluster.run("semantics", scenario, timeout=60)


def test_prints_reach_the_terminal_with_name_and_pid(cluster):
    program = cluster.run("semantics", "prints")
    pid = re.search(r"^worker (\d+)$", program.out, re.M).group(1)
    assert f"(says pid={pid}) hello to stdout" in program.out.splitlines()
    assert f"(says pid={pid}) hello to stderr" in program.err.splitlines()
    assert re.search(r"^\(town crier pid=\d+\) again to stdout$", program.out, re.M)
    assert re.search(r"^\(town crier pid=\d+\) again to stderr$", program.err, re.M)


def test_lines_without_an_end_stay_apart(cluster):
    program = cluster.run("semantics", "half_lines")
    lines = program.out.splitlines()
    assert sum(re.fullmatch(r"\(says_half pid=\d+\) a line without an end", line) is not None for line in lines) == 2, lines
    assert sum(re.fullmatch(r"\(says pid=\d+\) hello to stdout", line) is not None for line in lines) == 1, lines


def test_two_programs_at_once_do_not_meet(cluster):
    one, two = cluster.start("hold"), cluster.start("hold")
    for program in (one, two):
        program.say("init 2")
        program.expect(r"^ok \d+$")
        program.say("session")
    sessions = {p.expect(r"^session (.*)$").group(1) for p in (one, two)}
    assert len(sessions) == 2
    for program in (one, two):
        program.say("task")
        program.expect(r"^ok 42$")
    assert len(cluster.zygotes()) == 2
    one.kill()
    two.say("start add_one 1000")
    two.expect(r"^started 1000$")
    two.say("get 999")
    two.expect(r"^ok 1000$")
    two.say("shutdown")
    two.expect(r"^ok 0$")
    two.say("exit 0")
    assert two.wait() == 0


def test_a_program_may_start_its_cluster_again(cluster):
    program = cluster.start("hold")
    for _ in range(5):
        program.say("init 2")
        program.say("task")
        program.say("shutdown")
    program.say("exit 3")
    assert program.wait() == 3
    assert program.out.count("ok 42\n") == 5 and program.out.count("ok 0\n") == 5, repr(program)


def test_the_cluster_leaves_the_programs_input_alone(cluster):
    program = cluster.start("hold")
    program.say("init 2")
    program.say("task")
    program.expect(r"^ok 42$")
    others = [p.pid for p in cluster.processes() if p.pid != program.pid]
    assert len(others) >= 3
    assert {os.readlink(f"/proc/{pid}/fd/0") for pid in others} == {"/dev/null"}
    program.say("shutdown")
    program.say("exit 0")
    assert program.wait() == 0
