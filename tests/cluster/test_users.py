# SPDX-License-Identifier: Apache-2.0
"""Two users at once on one machine do not meet, though their sessions lie side by side."""
import os
import stat
import subprocess
from pathlib import Path

from conftest import as_user, wait_until
from test_bad_input import finish, says_why

ANNA, BERT = 12345, 12346


def start(cluster, public_build, user, temp=None):
    program = cluster.start("/usr/bin/env", *as_user(user), public_build / "tests/drivers/hold",
                            env={"RAY_TMPDIR": temp or public_build / "temp"})
    program.say("init 2")
    return program


def session_of(program):
    program.say("session")
    return Path(program.expect(r"^session (.*)$").group(1))


def runs_a_task(program):
    n = program.out.count("ok 42")
    program.say("task")
    program.expect(rf"(?s)\A(.*?ok 42$){{{n + 1}}}")


def kill_all(cluster, user):
    """Nobody is left to remove the session."""
    everybody = cluster.kill_at_once(lambda p: os.stat(f"/proc/{p.pid}").st_uid == user)
    wait_until(lambda: cluster.reap() or not any(p.pid in everybody for p in cluster.processes()) or None, 5, "killed")


def test_two_users_at_once_do_not_meet(cluster, public_build):
    anna = start(cluster, public_build, ANNA)
    runs_a_task(anna)
    bert = start(cluster, public_build, BERT)
    runs_a_task(bert)
    runs_a_task(anna)
    folders = {ANNA: session_of(anna), BERT: session_of(bert)}
    assert folders[ANNA] != folders[BERT]
    for user, folder in folders.items():
        info = folder.stat()
        assert info.st_uid == user and stat.S_IMODE(info.st_mode) == 0o700
    stranger = subprocess.run([*as_user(BERT), "ls", folders[ANNA]], capture_output=True, check=False)
    assert stranger.returncode != 0 and not stranger.stdout
    owners = [os.stat(f"/proc/{p.pid}").st_uid for p in cluster.processes()]
    assert owners.count(ANNA) >= 4 and owners.count(BERT) >= 4 and set(owners) == {ANNA, BERT}
    assert os.readlink(public_build / "temp" / "session_latest") == str(folders[ANNA])  # not bert's to replace
    kill_all(cluster, ANNA)
    anna.wait()
    runs_a_task(bert)
    finish(bert)
    assert not folders[BERT].exists() and folders[ANNA].is_dir()  # nor to sweep
    bert = start(cluster, public_build, BERT)
    runs_a_task(bert)
    assert folders[ANNA].is_dir()
    anna = start(cluster, public_build, ANNA)
    runs_a_task(anna)
    assert not folders[ANNA].exists()
    finish(anna)
    finish(bert)


def test_a_folder_of_another_user(cluster, public_build):
    """Made by the first who used it, for that user alone."""
    temp = public_build / "temp" / "annas"
    anna = start(cluster, public_build, ANNA, temp)
    runs_a_task(anna)
    bert = start(cluster, public_build, BERT, temp)
    says_why(bert, str(temp), "RAY_TMPDIR", "denied")
    bert.say("exit 0")
    assert bert.wait() == 0
    runs_a_task(anna)
    finish(anna)
