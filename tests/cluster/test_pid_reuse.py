# SPDX-License-Identifier: Apache-2.0
"""The number of a process that has died is given to a stranger: nobody takes the stranger for it."""
import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import slow, wait_until

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


@pytest.fixture(autouse=True)
def _numbers_can_be_chosen():
    try:
        LAST_PID.write_text(LAST_PID.read_text())
    except OSError:
        pytest.skip("choosing a process number needs root and a kernel with checkpoints")


class Stranger:
    """A process with this number."""

    def __init__(self, pid):
        self.process = None
        for _ in range(100):
            LAST_PID.write_text(str(pid - 1))
            self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            if self.process.pid == pid:
                return
            self.end()
        pytest.fail(f"{pid} could not be had")

    def end(self):
        self.process.stdin.close()
        return self.process.wait()


def gone(pid):
    return not Path(f"/proc/{pid}").exists() or None


def test_a_stranger_with_the_number_of_a_dead_worker(cluster):
    """The raylet learns of the death by the link's end, before it has read that the zygote has reaped it."""
    program = cluster.start("hold")
    program.say("init 1")
    program.say("start once_more 1")
    program.say("asleep 1")
    program.expect(r"^they sleep$")
    zygote = cluster.zygote(program)
    worker = next(w for w in cluster.workers(program))
    os.kill(zygote.parent, signal.SIGSTOP)
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: gone(worker.pid), 5 * slow(), "the zygote reaps it")
    stranger = Stranger(worker.pid)
    os.kill(zygote.parent, signal.SIGCONT)
    program.say("get 0")
    program.expect(r"^ok 1$")
    assert stranger.end() == 0
    program.say("shutdown")
    program.say("exit 0")
    assert program.wait() == 0


def test_a_stranger_with_the_number_of_a_dead_raylet(cluster):
    """The program's children are reaped as they die: nothing keeps the number."""
    program = cluster.start("hold", preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    program.say("init 1")
    program.say("task")
    program.expect(r"^ok 42$")
    raylet = cluster.zygote(program).parent
    os.kill(raylet, signal.SIGKILL)
    # and with it all of its process group, which the number is also the name of
    wait_until(lambda: cluster.reap() or [p.pid for p in cluster.processes()] == [program.pid] or None,
               5 * slow(), "they are gone")
    cluster.reap()
    wait_until(lambda: gone(raylet), 5 * slow(), "it is reaped")
    stranger = Stranger(raylet)
    program.say("shutdown")
    program.expect(r"^(ok 0|error .*)$")
    assert stranger.end() == 0
    program.say("exit 0")
    assert program.wait() == 0
