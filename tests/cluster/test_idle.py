# SPDX-License-Identifier: Apache-2.0
"""A raylet with nothing to do does nothing: no timer is armed, nothing wakes it."""
import os
import re
from pathlib import Path

import pytest
from conftest import slow, wait_until


def timer_of(pid):
    """What the loop's timer descriptor is armed for, (seconds, nanoseconds); None if it has none."""
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        found = re.search(r"^it_value: \((\d+), (\d+)\)$", Path(f"/proc/{pid}/fdinfo/{fd}").read_text(), re.M)
        if found:
            return int(found.group(1)), int(found.group(2))
    return None


def status(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return (re.search(r"^State:\s+(\S)", text, re.M).group(1),
            sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)$", text, re.M))))


def sleeps_without_a_timer(pid):
    if timer_of(pid) is None:
        pytest.skip("this libevent keeps its timeouts out of /proc")
    return timer_of(pid) == (0, 0) and status(pid)[0] == "S"


def tell_the_machine(cluster):
    """Its facts, so that no raylet looks for an idle moment to measure it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    path = cluster.temp / f"machine-{boot}-{os.geteuid()}"
    path.write_text("layout 2\nn_cpus 2\nwake_ns 20000\ntrip_ns 40000\ncopy_mb_per_s 5000\ncopy_plan 41\n")


def test_an_idle_raylet_never_wakes(cluster):
    tell_the_machine(cluster)
    idle, busy = cluster.start("hold"), cluster.start("hold")
    for program in (idle, busy):
        program.say("init 2")
        program.say("start spin 4")
        program.say("get 3")  # leases, which stay with the program
        program.expect(r"^ok 1$")
    raylet = cluster.zygote(idle).parent
    assert "libgrpc" not in Path(f"/proc/{raylet}/maps").read_text()  # opened in a cluster only
    wait_until(lambda: sleeps_without_a_timer(raylet) or None, 10 * slow(), "no timer is armed")
    before = status(raylet)
    for _ in range(300):  # the span of time: another program's work
        busy.say("task")
    wait_until(lambda: busy.out.count("ok 42\n") == 300 or None, 30 * slow(), busy)
    assert status(raylet) == before
    assert timer_of(raylet) == (0, 0)
    idle.say("task")
    idle.expect(r"^ok 42$")
    for program in (idle, busy):
        program.say("shutdown")
        program.say("exit 0")
        assert program.wait() == 0


def switches(pid):
    """Of all its threads."""
    return sum(status(f"{pid}/task/{tid}")[1] for tid in os.listdir(f"/proc/{pid}/task"))


def test_an_idle_driver_and_its_workers_sleep(cluster):
    """The helper naps for a while after the last task, then until it is spoken to."""
    tell_the_machine(cluster)
    idle, busy = cluster.start("hold"), cluster.start("hold")
    for program in (idle, busy):
        program.say("init 2")
        program.say("task")
        program.expect(r"^ok 42$")
    pids = [idle.pid] + [w.pid for w in cluster.workers(idle)]

    def sleep_through_the_others_work():
        before, done = [switches(p) for p in pids], busy.out.count("ok 42\n")
        for _ in range(300):  # the span of time
            busy.say("task")
        wait_until(lambda: busy.out.count("ok 42\n") == done + 300 or None, 30 * slow(), busy)
        return [switches(p) for p in pids] == before or None

    wait_until(sleep_through_the_others_work, 30 * slow(), "the idle program sleeps")
    idle.say("task")
    wait_until(lambda: idle.out.count("ok 42\n") == 2 or None, 10 * slow(), idle)
    for program in (idle, busy):
        program.say("shutdown")
        program.say("exit 0")
        assert program.wait() == 0


def test_surplus_workers_are_retired_though_nobody_speaks(cluster):
    """Tasks that wait for each other need more workers than there are CPUs; a timer ends them."""
    tell_the_machine(cluster)
    program = cluster.start("hold")
    program.say("init 2")
    program.say("descend 6")
    program.expect(r"^ok 6$")
    assert len(cluster.workers(program)) > 2
    wait_until(lambda: len(cluster.workers(program)) <= 2 or None, 10 * slow(), "two workers")
    raylet = cluster.zygote(program).parent
    wait_until(lambda: sleeps_without_a_timer(raylet) or None, 10 * slow(), "no timer is armed")
    program.say("task")
    program.expect(r"^ok 42$")
    program.say("shutdown")
    program.say("exit 0")
    assert program.wait() == 0


def test_idle_workers_stay_while_others_need_what_they_own(cluster):
    program = cluster.start("hold")
    program.say("init 1")
    program.say("bequeath 5")
    program.expect(r"^ok 0$")
    for n in (1, 2):  # when the last surplus worker was told to end, so were those idle longer
        program.say("descend 9")
        wait_until(lambda n=n: program.out.count("ok 9\n") == n or None, 10 * slow(), program)
        wait_until(lambda: len(cluster.workers(program)) <= 6 or None, 20 * slow(), "nine workers are kept")
    program.say("inherit")
    program.expect(r"^ok 15$")
    wait_until(lambda: len(cluster.workers(program)) <= 1 or None, 20 * slow(), "workers stay for nothing")
    program.say("shutdown")
    program.say("exit 0")
    assert program.wait() == 0
