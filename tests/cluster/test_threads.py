# SPDX-License-Identifier: Apache-2.0
"""Many threads of one program in all calls at once (tests/drivers/threads.c); SAN=thread makes most of it."""
import os
import signal

import pytest
from conftest import slow


@pytest.mark.parametrize("scenario", ["everything", "in_a_body", "begins", "ends", "asks_beside_a_get"])
def test_scenario(cluster, scenario):
    cluster.run("threads", scenario, timeout=60)


def test_threads_in_calls_learn_of_the_raylets_death(cluster):
    program = cluster.start("threads", "raylet_dies")
    program.expect(r"^inside$")
    zygote = cluster.zygote(program)
    os.kill(zygote.parent, signal.SIGKILL)
    assert program.wait() == 0, repr(program)
    cluster.all_gone()
