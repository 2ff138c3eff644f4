# SPDX-License-Identifier: Apache-2.0
"""Two users at once on one machine do not meet, though their sessions lie side by side."""
import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from conftest import ANNA, BERT, as_user, slow, wait_until
from test_bad_input import finish, says_why


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


class User:
    """Who starts and stops nodes in the folder that all use."""

    def __init__(self, cluster, public_build, uid):
        self.cluster, self.build, self.uid = cluster, public_build, uid
        self.runner, self.temp = as_user(uid), public_build / "temp"
        self.home = public_build / f"home-{uid}"
        self.home.mkdir()
        os.chown(self.home, uid, uid)

    def ray(self, *args, status=0):
        env = self.cluster.env(HOME=self.home, RAY_TMPDIR=self.temp)
        done = subprocess.run([*self.runner, self.build / "bin/ray", *args], env=env, cwd="/", capture_output=True,
                              text=True, check=False, timeout=60 * slow())
        assert done.returncode == status, (args, done)
        return done

    def start(self, *args):
        done = self.ray("start", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--object-store-memory=16777216", *args)
        return re.search(r"cluster (127\.0\.0\.1:\d+), ready", done.stdout)[1]

    def nodes(self):
        return {n["node_id"] for n in json.loads(self.ray("list", "nodes", "--format=json").stdout) if n["state"] == "ALIVE"}

    def program(self):
        program = self.cluster.start("/usr/bin/env", *self.runner, self.build / "tests/drivers/hold",
                                     env={"RAY_TMPDIR": self.temp, "RAY_ADDRESS": "auto"})
        program.say("init 0")
        program.expect(r"^ok \d+$")
        return program


@pytest.fixture
def users(cluster, public_build):
    both = [User(cluster, public_build, uid) for uid in (ANNA, BERT)]
    yield both
    for user in both:
        user.ray("stop", "--force")
    cluster.processes_gone(10)


def test_two_clusters_of_two_users(users):
    anna, bert = users
    addresses = [user.start("--head", "--port=0") for user in users]
    for user, address in zip(users, addresses):
        assert user.start(f"--address={address}") == address
    ids = [user.nodes() for user in users]
    assert [len(i) for i in ids] == [2, 2] and ids[0].isdisjoint(ids[1])
    programs = [user.program() for user in users]  # each in its own
    for user, program in zip(users, programs):
        runs_a_task(program)
        assert session_of(program).stat().st_uid == user.uid
    done = anna.ray("status", f"--address={addresses[1]}", status=1)
    assert "RAY_AUTH_TOKEN" in done.stderr, done.stderr
    done = anna.ray("start", f"--address={addresses[1]}", "--node-ip-address=127.0.0.1", status=1)
    assert "RAY_AUTH_TOKEN" in done.stderr, done.stderr
    finish(programs[0])
    assert "Stopped 2 of 2" in anna.ray("stop").stdout
    runs_a_task(programs[1])
    assert bert.nodes() == ids[1]
    finish(programs[1])
    assert "Stopped 2 of 2" in bert.ray("stop").stdout
