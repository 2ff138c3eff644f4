# SPDX-License-Identifier: Apache-2.0
"""What only a dead node had is made again, or its loss is an error that says why."""
import re
import signal
import subprocess

import pytest
from conftest import build_dir, slow, wait_until
from test_jobs import ask
from test_machines import TOKEN, Machines, leave

SIZE = 300_000


@pytest.fixture
def machines(cluster):
    m = Machines(cluster)
    yield m
    m.stop()


def make(program, what, *args):
    """A ref whose value is in the store where it was made."""
    ref = ask(program, f"{what} {' '.join(map(str, args))}")
    assert ask(program, f"ready {ref}", timeout=60) == "1"
    return ref


def total(program, seed, size=SIZE):
    """The sum of what is made with that seed."""
    ref = ask(program, f"put {size} {seed}")
    found = ask(program, f"get {ref}", r"sum (\d+)")
    ask(program, f"drop {ref}")
    return found


def get(program, ref):
    return ask(program, f"get {ref}", r"sum (\d+)", timeout=60)


def failure(program, ref):
    before = len(program.out)
    program.say(f"get {ref}")
    wait_until(lambda: re.search(r"^(sum|error) .*\n", program.out[before:], re.M), 60 * slow(), "an answer")
    return re.search(r"^error 12 (.*)$", program.out[before:], re.M).group(1)


def test_what_a_dead_node_had_is_made_again(machines):
    """By getters, borrowers and arguments, through tasks whose results nobody has any more."""
    machines.add("a", resources="a:1000000")
    machines.add("b", resources="b:1000000")
    machines.add("c", resources="c:1000000")
    machines.all_see()
    program = machines.nodes[0].driver()
    sums = {seed: total(program, seed) for seed in range(1, 9)}
    one = make(program, "make", SIZE, 1, "b=1")
    left = make(program, "make", SIZE, 2, "b=1")
    middle = make(program, "derive", left, 1, "b=1")
    chain = make(program, "derive", middle, 1, "b=1")
    borrowed = make(program, "make", SIZE, 5, "b=1")
    argument = make(program, "make", SIZE, 6, "b=1")
    two = make(program, "two", SIZE, 7, "b=1")
    other = str(int(two) + 1)
    fragile = make(program, "once_only", SIZE, 1, "b=1")
    here = ask(program, f"put {SIZE} 1")
    from_put = make(program, "derive", here, 1, "b=1")
    for ref in (left, middle, here):
        ask(program, f"drop {ref}")
    assert get(program, other) == sums[8]  # a copy: it stays
    machines.nodes[1].kill()
    machines.add("d", resources="b:1000000")
    assert get(program, one) == sums[1]
    assert get(program, chain) == sums[4]
    assert ask(program, f"pass {argument} 0 c=1", r"sum [0-9a-f]{8} (\d+)", timeout=60) == sums[6]
    assert int(ask(program, f"inside {borrowed} 0 c=1", timeout=60)) == int(sums[5]) >> 1
    assert get(program, other) == sums[8]
    assert get(program, two) == sums[7]
    assert "max_retries is 0" in failure(program, fragile)
    assert "it was put" in failure(program, from_put)
    leave(program)
    machines.cluster.announce("")


def end(machines, node):
    """It leaves in order: the others hear of it at once."""
    node.program.kill(signal.SIGTERM)
    assert node.program.wait() == 0


def test_it_is_made_again_as_often_as_its_task_may_be_retried(machines):
    """The node that made it the second time dies too. What waits for it is asked for, and the books agree after."""
    machines.add("a", resources="a:1000000")
    machines.add("b", resources="b:1000000")
    machines.add("c", resources="c:1000000")
    machines.all_see()
    program = machines.nodes[0].driver()
    sums = {seed: total(program, seed) for seed in (1, 2)}
    often = make(program, "make", SIZE, 1, "b=1")
    once_more = make(program, "once_more", SIZE, 2, "b=1")
    for name in ("d", "e"):
        for node in machines.nodes[2:] if name == "e" else machines.nodes[1:2]:  # also who has read it
            end(machines, node)
        machines.add(name, resources="b:1000000")
        if name == "d":  # read elsewhere, so that no copy is here
            for ref, seed in ((often, 1), (once_more, 2)):
                assert ask(program, f"pass {ref} 0 c=1", r"sum [0-9a-f]{8} (\d+)", timeout=60) == sums[seed]
    assert ask(program, f"bring {often}", timeout=60) == "1"
    assert get(program, often) == sums[1]
    assert "used up its max_retries" in failure(program, once_more)
    found = subprocess.run([build_dir() / "bin" / "ray", "memory", "--check",
                            f"--session-dir={machines.nodes[0].session}"],
                           capture_output=True, text=True, env=machines.cluster.env(), timeout=30 * slow())
    assert found.returncode == 0, found.stdout + found.stderr
    leave(program)


def test_lineage_has_a_bound(machines):
    machines.add("a", resources="a:1000000")
    machines.add("b", resources="b:1000000")
    machines.all_see()
    program = machines.cluster.start("machines", env={"RAY_ADDRESS": str(machines.nodes[0].session),
                                                      "RAY_AUTH_TOKEN": TOKEN, "RAY_max_lineage_bytes": "0"})
    program.say("init")
    program.expect(r"^ok \d+$")
    ref = make(program, "make", SIZE, 1, "b=1")
    end(machines, machines.nodes[1])
    assert "RAY_max_lineage_bytes" in failure(program, ref)
    leave(program)
