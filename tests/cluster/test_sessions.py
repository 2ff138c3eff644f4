# SPDX-License-Identifier: Apache-2.0
"""Session folders and what else lies in the temp folder: of killed raylets and earlier boots nothing stays."""
import fcntl
import os
import signal
from pathlib import Path

import pytest
from conftest import slow, wait_until


def started(cluster):
    program = cluster.start("hold")
    program.say("init 2")
    program.expect(r"^ok \d+$")
    program.say("session")
    folder = Path(program.expect(r"^session (.*)$").group(1))
    wait_until(lambda: cluster.zygotes(program), 10 * slow(), "its zygote")
    return program, folder


def finish(program):
    program.say("shutdown")
    program.expect(r"^ok 0$")
    program.say("exit 0")
    assert program.wait() == 0


def kill_all_of(cluster, program):
    """Nobody is left to remove the session."""
    cluster.kill_at_once()
    program.wait()
    cluster.processes_gone()
    wait_until(lambda: all(is_free(s / "raylet.pid") for s in cluster.sessions()) or None, 5, "their files are closed")


def is_free(path):
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_stale_session_is_swept_by_the_next_start(cluster):
    program, folder = started(cluster)
    latest = cluster.temp / "session_latest"
    assert latest.resolve() == folder
    kill_all_of(cluster, program)
    assert folder.is_dir()  # stale: the test is about something
    program, own = started(cluster)
    assert cluster.sessions() == [own]  # when ray_init has returned
    assert latest.resolve() == own
    finish(program)
    assert not latest.is_symlink()


def test_a_live_session_is_not_swept(cluster):
    one, folder = started(cluster)
    two, other = started(cluster)
    assert cluster.sessions() == sorted([folder, other])
    assert (cluster.temp / "session_latest").resolve() == other
    finish(two)
    assert cluster.sessions() == [folder]
    assert (cluster.temp / "session_latest").resolve() == folder
    one.say("task")
    one.expect(r"^ok 42$")
    finish(one)


def test_a_stopped_raylet_still_holds_its_session(cluster):
    one, folder = started(cluster)
    raylet = cluster.zygote(one).parent
    os.kill(raylet, signal.SIGSTOP)
    two, _ = started(cluster)
    assert folder.is_dir()
    os.kill(raylet, signal.SIGCONT)
    finish(two)
    finish(one)


@pytest.mark.parametrize("who", ["raylet", "raylet and driver"])
def test_session_latest_does_not_dangle_after_a_kill(cluster, who):
    program, folder = started(cluster)
    latest = cluster.temp / "session_latest"
    os.kill(cluster.zygote(program).parent, signal.SIGKILL)
    if who == "raylet":
        program.say("exit 0")
        assert program.wait() == 0
    else:
        program.kill()
    cluster.all_gone()  # the zygote removed the folder
    assert not folder.exists()
    assert not latest.is_symlink()


def test_facts_of_earlier_boots_are_swept(cluster):
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    uid = os.geteuid()
    old = "01234567-89ab-cdef-0123-456789abcdef"
    text = "layout 2\nn_cpus 2\nwake_ns 20000\ntrip_ns 40000\ncopy_mb_per_s 5000\ncopy_plan 41\n"
    gone = [f"machine-{old}-{uid}", f"machine-{old}-{uid}.4711"]
    stay = [f"machine-{boot}-{uid}", "machine-notes", "machine-", "machine-01234567-89ab-1", "session_2notes"]
    for name in gone + stay:
        (cluster.temp / name).write_text(text)
    (cluster.temp / f"machine-{old}-77").mkdir()
    program = cluster.start("hold")
    program.say("init 2")
    program.expect(r"^ok \d+$")
    names = {p.name for p in cluster.temp.iterdir()}
    assert not names & set(gone)
    assert set(stay) <= names and f"machine-{old}-77" in names
    finish(program)
    (cluster.temp / "session_2notes").unlink()


def test_a_half_made_session_is_left_alone_until_it_is_old(cluster):
    fresh, old = cluster.temp / "session_2026-01-01_half", cluster.temp / "session_2026-01-01_old"
    fresh.mkdir()
    old.mkdir()
    os.utime(old, (1, 1))
    program, own = started(cluster)
    assert cluster.sessions() == sorted([fresh, own])
    finish(program)
    fresh.rmdir()
