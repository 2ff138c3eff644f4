# SPDX-License-Identifier: Apache-2.0
"""Tasks that end or damage their process; forks (tests/drivers/faults.c)."""
import os

import pytest

SANITIZED = bool(os.environ.get("SAN"))
SIGABRT, SIGKILL, SIGSEGV = 6, 9, 11


@pytest.mark.parametrize("how,signal", [
    ("exit", 0),
    ("_exit", 0),
    ("abort", SIGABRT),
    ("segv", SIGSEGV),
    ("kill", SIGKILL),
    ("stack", SIGSEGV),
])
def test_a_task_that_ends_its_process_fails_alone(cluster, how, signal):
    if SANITIZED and how == "segv":
        pytest.skip("UBSan ends a process that stores to null itself")
    cluster.run("faults", "dies", how, signal)


def test_a_crash_names_its_place(cluster):
    cluster.run("faults", "crash_names_its_place")


def test_a_task_that_becomes_another_program_fails(cluster):
    # its link closes with exec; the raylet kills what it became (INV-24: its end is told after waitpid)
    cluster.run("faults", "dies", "exec", SIGKILL)


def test_a_task_that_becomes_a_program_that_ends_fails(cluster):
    program = cluster.start("faults", "dies", "exec_ends", 0)
    code = program.wait()
    # killed by the raylet or ended by itself, whichever was first
    assert code == 0 or "signal 9" in program.out, repr(program)


@pytest.mark.parametrize("how", ["daemon", "signals", "flood"])
def test_a_task_may(cluster, how):
    cluster.run("faults", "survives", how)


def test_a_task_that_closes_all_descriptors(cluster):
    cluster.run("faults", "closes_all")


def test_daemons_of_a_dead_task_are_dead_when_its_error_is_told(cluster):
    cluster.run("faults", "daemon_dies")


def test_crashed_tasks_are_tried_again(cluster):
    cluster.run("faults", "retries")


def test_attempts_are_one_task_and_their_children_are_others(cluster):
    cluster.run("faults", "identities")  # INV-1, INV-2


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_kill_in_mid_window_spends_attempts_of_started_tasks_alone(cluster, retries):
    cluster.run("faults", "mid_window", retries)


def test_a_child_forked_by_a_task_is_inert(cluster):
    cluster.run("faults", "fork_in_task")


@pytest.mark.skipif(SANITIZED, reason="the leak checker of a forked child trips over its parent's threads")
def test_a_child_forked_by_the_program_is_inert(cluster):
    cluster.run("faults", "fork_in_driver")
