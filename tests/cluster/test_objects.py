# SPDX-License-Identifier: Apache-2.0
"""Values in shared memory and refs inside values (tests/drivers/objects.c, refs.c, objects_cpp.cpp)."""
import re

import pytest

from conftest import build_dir


@pytest.mark.parametrize("scenario", [
    "sizes",          # puts, arguments, returns and lists of 0 bytes to 33 MiB, each byte around 100 KiB
    "views",
    "buffers",
    "facts",
    "frees",
    "full",
    "threads",
    "redone",
    "together",
    "after_the_end",
])
def test_values(cluster, scenario):
    cluster.run("objects", scenario, timeout=60)


@pytest.mark.parametrize("scenario", [
    "nested",
    "returned",        # INV-9, INV-13: what a reply holds is counted before the giver lets go of it
    "large",
    "pending",         # INV-33: those who wait for a borrowed ref are told
    "orders",          # INV-26: every order of dropping refs, views and boxes, in a driver and in a worker
    "held_by_others",  # INV-8: tasks, results and objects keep what they hold
    "many",
    "many_views",
    "freed_elsewhere",
    "misuse",
    "owner_dies",
])
def test_refs(cluster, scenario):
    cluster.run("refs", scenario, timeout=60)


def test_a_cpp_program_shares_objects(cluster):
    cluster.run("objects_cpp")


def test_matrix_is_verified(cluster):
    program = cluster.run(build_dir() / "examples" / "matrix", 3, timeout=60)
    assert re.search(r"^A \(B r\) = C r for a random r: correct$", program.out, re.M), repr(program)
    assert "18 blocks of 0.5 MiB put once, 9 MiB shared" in program.out
    assert "9 tasks read 54 blocks, 27 MiB, where they lie" in program.out


def test_matrix_names_its_usage(cluster):
    program = cluster.run(build_dir() / "examples" / "matrix", "many", status=1)
    assert "usage: matrix [N]" in program.err


@pytest.mark.parametrize("fault", ["writes to a view", "overruns its buffer", "closes all descriptors", "forks", "execs",
                                   "is killed reading", "is killed writing", "its child is killed reading"])
def test_a_body_that_misbehaves_with_store_memory(cluster, fault, request):
    number = request.node.callspec.indices["fault"]
    cluster.run("object_faults", "faults", number, timeout=60)
