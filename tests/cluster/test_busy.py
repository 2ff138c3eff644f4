# SPDX-License-Identifier: Apache-2.0
"""CPUs that have more to do than they can: no node, job or worker is lost."""
import os
import re
import subprocess
import time

import pytest
from conftest import slow
from test_jobs import ask
from test_machines import NODES, counts, leave, machines  # pylint: disable=unused-import
from test_network import SILENCE_S

BUSY_S = float(os.environ.get("RAY_TEST_BUSY_S", SILENCE_S + 4))  # half an hour now and then


@pytest.fixture
def burners():
    """Four that never sleep for each CPU."""
    n = min(4 * len(os.sched_getaffinity(0)), 64)
    started = []
    try:
        for _ in range(n):
            started.append(subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"]))
        yield started
    finally:
        for p in started:
            p.kill()
            p.wait()


@pytest.mark.alone
@pytest.mark.skipif(slow() > 1, reason="a sanitizer makes them slow enough in all tests")
def test_no_false_death(machines, burners):
    nodes = [machines.add(name, resources=f"{name}:1000000") for name in "abc"]
    machines.all_see()
    before = {node: len(node.log()) for node in nodes}
    programs = [node.driver() for node in nodes[:2]]
    end = time.monotonic() + BUSY_S
    while time.monotonic() < end:
        for program in programs:
            assert ask(program, "add 2000", timeout=60) == "2000"
            assert sum(counts(ask(program, "needing 20 100 c=1", NODES, timeout=60)).values()) == 20
    assert all(b.poll() is None for b in burners)
    for node in nodes:
        log = node.log()[before[node]:]
        assert "event=node_dead" not in log and "component=job event=end" not in log
        # 9: so ends one that was still starting when it was not needed any more
        assert not re.search(r"event=worker_exited pid=\d+ status=0x(?!0$|9$)", log, re.MULTILINE)
        assert node.program.process.poll() is None
    for program in programs:
        assert ask(program, "cluster", r"cluster (\d+) [\d.]+") == "3"
        leave(program)
