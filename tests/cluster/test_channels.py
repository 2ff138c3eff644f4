# SPDX-License-Identifier: Apache-2.0
"""Direct channels are few, and nothing is lost when one makes room for another (tests/drivers/channels.c)."""
import contextlib
import os
import re

import pytest
from conftest import build_dir, slow, wait_until

SANITIZED = bool(os.environ.get("SAN"))
LIMIT = 128


def limited(cluster, n):
    """The environment of a program whose raylet allows each process n direct channels."""
    raylet = cluster.path / "raylet"
    raylet.write_text(f'#!/bin/sh\nexec {build_dir()}/bin/raylet --developer --dev-max-channels={n} "$@"\n')
    raylet.chmod(0o755)
    return {"RAY_RAYLET": raylet}


def channels(pid):
    """Sockets of a driver or worker but for the one to its raylet. One that has ended meanwhile has none."""
    folder = f"/proc/{pid}/fd"
    n = -1
    with contextlib.suppress(FileNotFoundError):
        for fd in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                n += os.readlink(f"{folder}/{fd}").startswith("socket:")
    return max(n, 0)


def go(cluster, n=1):
    pipe = os.open(cluster.path / "go", os.O_RDWR)
    os.write(pipe, b"x" * n)
    return pipe  # a pipe that nobody has open is empty


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_channels_come_and_go_in_a_cluster_of_few(cluster, limit):
    program = cluster.start("channels", "churn", 6, env=limited(cluster, limit))
    program.expect("^ready", 60)

    def too_many():
        count = {p: channels(p) for p in [program.pid, *(w.pid for w in cluster.workers(program))]}
        return {p: n for p, n in count.items() if n > limit}
    wait_until(lambda: not too_many(), 10 * slow(), f"at most {limit} channels a process")
    assert len(cluster.workers(program)) > limit
    go(cluster)
    assert program.wait() == 0, repr(program)
    log = cluster.logs()
    assert "event=route" in log
    assert "event=channel_ended" in log
    assert not re.search("event=(malformed_frame|channel_lost|worker_died)", log)


@pytest.mark.parametrize("limit,n", [(3, 6), (LIMIT, LIMIT + 4)])
def test_who_finds_no_room_talks_over_the_raylet(cluster, limit, n):
    if SANITIZED and limit == LIMIT:
        pytest.skip("as many processes as that are too much for a sanitizer's memory")
    program = cluster.start("channels", "meeting", n, env=limited(cluster, limit) if limit != LIMIT else {})
    for turn in (1, 2):
        program.expect(f"^ready {turn}", 60)
        assert channels(program.pid) == limit
        pipe = go(cluster, n)
    assert program.wait() == 0, repr(program)
    os.close(pipe)
    assert "event=route" in cluster.logs()
