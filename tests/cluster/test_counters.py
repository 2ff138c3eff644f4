# SPDX-License-Identifier: Apache-2.0
"""What a task may cost, by the core's counters (tests/drivers/counters.c)."""
import os
import re

import pytest

pytestmark = pytest.mark.skipif(bool(os.environ.get("SAN")), reason="counts are of the release build")


def number(program, name):
    found = re.search(rf"^{name} ([\d.]+)$", program.out, re.M)
    assert found, f"no {name!r}: {program!r}"
    return float(found.group(1))


def test_full_windows(cluster):
    program = cluster.run("counters", "windows", timeout=60)
    assert number(program, "submitted") == 30000
    assert number(program, "allocs") == 0, repr(program)
    assert number(program, "writes a task") <= 0.1, repr(program)


def test_synchronous_trips(cluster):
    program = cluster.run("counters", "trips", timeout=60)
    # one write on each side; a lease that ends and begins again in between costs a few more
    assert number(program, "worker tasks") >= 1000
    assert number(program, "driver writes a trip") <= 1.02, repr(program)
    assert number(program, "worker writes a trip") <= 1.02, repr(program)
    assert number(program, "driver hops") == 0, repr(program)
    assert number(program, "worker hops") == 0, repr(program)
    assert number(program, "driver allocs") == 0, repr(program)
    assert number(program, "worker allocs") == 0, repr(program)


def test_the_context_of_a_call_is_not_asked_for(cluster):
    program = cluster.run("counters", "context")
    assert number(program, "writes") == 0, repr(program)


def test_only_who_borrows_sends_digests(cluster):
    program = cluster.run("counters", "digests", timeout=60)
    assert number(program, "digests without a borrow") == 0, repr(program)
    assert number(program, "digests") == 1, repr(program)
