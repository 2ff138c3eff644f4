# SPDX-License-Identifier: Apache-2.0
"""kill -9 of each process of a cluster at a bad moment: errors and not hangs, and nothing left (tests/drivers/hold.c)."""
import os
import signal

import pytest
from conftest import wait_until


def started(cluster, cpus=2, **options):
    program = cluster.start("hold", **options)
    program.say(f"init {cpus}")
    program.expect(r"^ok \d+$")
    program.say("task")
    program.expect(r"^ok 42$")
    return program


def test_driver_killed_while_10000_tasks_run(cluster):
    program = started(cluster, 4)
    program.say("start spin 10000")
    program.say("get 100")
    program.expect(r"^ok 1$")
    program.kill()
    cluster.all_gone()


def test_driver_killed_while_tasks_sleep_for_ever(cluster):
    program = started(cluster, 3)
    program.say("start sleep 3")
    program.say("asleep 3")
    program.expect(r"^they sleep$")
    assert len(cluster.workers(program)) >= 3
    program.kill()
    cluster.all_gone()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSEGV])
def test_driver_ended_by_signal(cluster, sig):
    program = started(cluster)
    program.say("start sleep 1")
    program.say("asleep 1")
    program.expect(r"^they sleep$")
    program.kill(sig)
    assert program.wait() == -sig
    cluster.all_gone()


def test_driver_that_exits_without_shutdown(cluster):
    program = started(cluster)
    program.say("start sleep 2")
    program.say("asleep 2")
    program.expect(r"^they sleep$")
    program.say("exit 5")
    assert program.wait() == 5
    cluster.all_gone()


def test_shutdown_while_tasks_sleep_for_ever(cluster):
    program = started(cluster)
    program.say("start sleep 2")
    program.say("asleep 2")
    program.expect(r"^they sleep$")
    program.say("shutdown")
    program.expect(r"^ok 0$", timeout=5)
    assert [p.pid for p in cluster.processes()] == [program.pid]
    assert not cluster.sessions()
    program.say("exit 0")
    assert program.wait() == 0


def test_driver_killed_while_its_cluster_starts(cluster):
    for _ in range(10):
        program = cluster.start("hold")
        program.say("init 2")
        wait_until(lambda: len(cluster.processes()) > 1 or None, 5, "a raylet")
        program.kill()
        cluster.all_gone()


def test_raylet_killed(cluster):
    program = started(cluster)
    program.say("start sleep 2")
    program.say("asleep 2")
    program.expect(r"^they sleep$")
    zygote = cluster.zygote(program)
    program.say("get 0")
    os.kill(zygote.parent, signal.SIGKILL)
    program.expect(r"^error \d+ signal \d+ \S.*", timeout=2)
    program.say("task")  # a later one says so at once too
    wait_until(lambda: len([x for x in program.out.splitlines() if x.startswith("error")]) == 2, 2, program)
    program.say("shutdown")
    program.say("exit 0")
    assert program.wait() == 0
    # a killed raylet cannot sweep: its session folder is the next one's to remove
    cluster.processes_gone()
    if cluster.sessions():
        cluster.run("semantics", "polls")
    cluster.all_gone()


def test_driver_and_raylet_killed(cluster):
    program = started(cluster)
    program.say("start sleep 2")
    program.say("asleep 2")
    program.expect(r"^they sleep$")
    raylet = cluster.zygote(program).parent
    os.kill(raylet, signal.SIGKILL)
    program.kill()
    cluster.processes_gone()
    cluster.run("semantics", "polls")
    cluster.all_gone()


def test_zygote_killed_tasks_are_tried_again(cluster):
    program = started(cluster)
    program.say("start once_more 1")
    program.say("asleep 1")
    program.expect(r"^they sleep$")
    zygote = cluster.zygote(program)
    os.kill(zygote.pid, signal.SIGKILL)
    program.say("get 0")
    program.expect(r"^ok 1$")
    program.say("task")
    program.expect(r"(?s)^ok 42$.*^ok 42$")
    assert cluster.zygote(program).pid != zygote.pid
    program.say("shutdown")
    program.say("exit 0")
    assert program.wait() == 0


def test_zygote_ended_in_order(cluster):
    program = started(cluster)
    program.say("start once_more 2")
    program.say("asleep 2")
    program.expect(r"^they sleep$")
    os.kill(cluster.zygote(program).pid, signal.SIGTERM)
    program.say("get 0")
    program.expect(r"^ok 1$")
    program.say("get 1")
    program.say("exit 0")
    assert program.wait() == 0
    cluster.all_gone()


def test_workers_killed_again_and_again(cluster):
    program = started(cluster)
    for n in range(10):
        program.say("start once_more 1")
        program.say("asleep 1")
        wait_until(lambda: program.out.count("they sleep") == n + 1 or None, 10, program)
        for worker in cluster.workers(program):
            try:
                os.kill(worker.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        program.say(f"get {n}")
        wait_until(lambda: program.out.count("\nok 1\n") == n + 1 or None, 10, program)
    program.say("shutdown")
    program.say("exit 0")
    assert program.wait() == 0


def test_a_stopped_worker_is_ended_with_its_program(cluster):
    program = started(cluster)
    program.say("start sleep 1")
    program.say("asleep 1")
    program.expect(r"^they sleep$")
    for process in cluster.processes():
        if process.pid != program.pid and process.name.startswith("ray::") and process.name != "ray::zygote":
            os.kill(process.pid, signal.SIGSTOP)
    program.kill()
    cluster.all_gone()
