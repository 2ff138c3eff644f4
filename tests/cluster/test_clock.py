# SPDX-License-Identifier: Apache-2.0
"""Wall clocks that jump, of one node or the other (clock_jump.c): nobody notices but the logs."""
import os
import re
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest
from conftest import slow
from test_jobs import ask, facts, leave
from test_network import SILENCE_S
from test_start import nodes, wait_new  # pylint: disable=unused-import

HOUR_S = 3600


class Clock:
    """Of those that are started with its environment."""

    def __init__(self, library, path):
        self.path = path
        self.jump(0)
        self.env = {"LD_PRELOAD": library, "CLOCK_JUMP": path}

    def jump(self, ahead_s):
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, struct.pack("=q", ahead_s))
        os.close(fd)


@pytest.fixture
def clocks(cluster):
    if slow() != 1:
        pytest.skip("a sanitizer wants to be loaded first itself")
    library = cluster.path / "clock_jump.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-D_GNU_SOURCE", "-o", library,
                    Path(__file__).parent / "clock_jump.c", "-ldl"], check=True)
    return [Clock(library, cluster.path / f"clock-{i}") for i in range(2)]


def test_jumps_by_an_hour(nodes, clocks):
    head = nodes.head("--node-name=first", env=clocks[0].env)
    second = nodes.join(head, "second", env=clocks[1].env)
    ids = {n["node_id"] for n in nodes.list("nodes")}
    raylets = [n.daemon("raylet") for n in (head, second)]

    def driver(node):
        program = nodes.cluster.start("jobs", env={"RAY_ADDRESS": node.folder})
        program.say("init")
        program.expect(r"^ok \d+$", 20)
        return program
    first = driver(second)
    numbers = [facts(first)[0]]
    for who, ahead_s in ((0, HOUR_S), (1, -HOUR_S), (0, -HOUR_S), (1, HOUR_S)):
        clocks[who].jump(ahead_s)
        assert ask(first, "tasks 200") == "200"
        old = head.daemons()
        for name in ("gcs_server", "redis-server"):
            os.kill(old[name], signal.SIGKILL)
        for name in ("gcs_server", "redis-server"):
            wait_new(head, name, old[name])
        late = driver(second)  # whose raylet finds the new gcs_server
        numbers.append(facts(late)[0])
        assert ask(late, "tasks 200") == "200"
        leave(late)
    silence = time.monotonic() + SILENCE_S + 1
    while time.monotonic() < silence:
        assert ask(first, "tasks 200") == "200"
    assert {n["node_id"] for n in nodes.list("nodes") if n["state"] == "ALIVE"} == ids
    assert [n.daemon("raylet") for n in (head, second)] == raylets
    assert sorted(set(numbers)) == numbers
    logged = set(re.findall(r"^ts=\S+T(\d\d)", head.log("raylet.err") + head.log("gcs_server.err"), re.M))
    assert len(logged) > 1, "the clock was moved"
    leave(first)
    nodes.ray("stop")
    nodes.ray("stop", f"--temp-dir={nodes.temp('second')}")
    nodes.all_gone()
