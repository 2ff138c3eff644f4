# SPDX-License-Identifier: Apache-2.0
"""The node of an object's primary copy is killed: a copy that another node has takes its place."""
import json
import subprocess

import pytest
from conftest import build_dir, slow, wait_until
from test_jobs import ask
from test_lineage import SIZE, get, make, total
from test_machines import Machines, leave


@pytest.fixture
def machines(cluster):
    m = Machines(cluster)
    for name in ("a", "b", "c", "d", "e"):
        m.add(name, resources=f"{name}:1000000")
    m.all_see()
    yield m
    m.stop()


def memory(machines, node, *args):
    """What `ray memory` says of that node."""
    done = subprocess.run([build_dir() / "bin" / "ray", "memory", f"--session-dir={node.session}", *args],
                          capture_output=True, text=True, env=machines.cluster.env(), timeout=30 * slow(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def used(machines, node):
    """Bytes of objects in that node's store."""
    return json.loads(memory(machines, node, "--format=json"))["store"]["used"]


def copy_to(program, ref, *names):
    """Tasks there read it."""
    for name in names:
        ask(program, f"pass {ref} 0 {name}=1", r"sum [0-9a-f]{8} (\d+)", timeout=60)


def runs(path):
    return path.read_text().count("ran\n")


def test_a_copy_elsewhere_is_the_primary_one_from_now_on(machines):
    """For the driver's get, a worker's argument and a borrower, one holder being dead too; what nobody else has is made
    again."""
    b, c = machines.nodes[1:3]
    program = machines.nodes[0].driver()
    sums = {seed: total(program, seed) for seed in range(1, 6)}
    logs = {seed: machines.cluster.temp / f"runs-{seed}" for seed in range(1, 5)}
    got, passed, alone, gone_too = (make(program, "noted", SIZE, seed, logs[seed]) for seed in range(1, 5))
    fragile = make(program, "once_only", SIZE, 5, "b=1")
    for ref in (got, passed, gone_too):
        copy_to(program, ref, "c")
    for ref in (got, passed, fragile):
        copy_to(program, ref, "d")
    b.kill()
    c.kill()
    machines.add("f", resources="b:1000000")
    assert get(program, got) == sums[1]
    assert ask(program, f"pass {passed} 0 e=1", r"sum [0-9a-f]{8} (\d+)", timeout=60) == sums[2]
    assert int(ask(program, f"inside {fragile} 0 e=1", timeout=60)) == int(sums[5]) >> 1
    assert get(program, alone) == sums[3]
    assert get(program, gone_too) == sums[4]
    assert [runs(logs[seed]) for seed in range(1, 5)] == [1, 1, 2, 2]
    living = [node for node in machines.nodes if node not in (b, c)]
    for node in living:
        memory(machines, node, "--check")
    # frees reach it, and the copies that it has served
    for ref in (got, passed, alone, gone_too, fragile):
        ask(program, f"free {ref}")
    for node in living:
        wait_until(lambda n=node: used(machines, n) == 0 or None, 20 * slow(), f"nothing is left at {node.name}")
        memory(machines, node, "--check")
    leave(program)
    machines.cluster.announce("")
