# SPDX-License-Identifier: Apache-2.0
"""`ray memory` on programs in every state a ref can be in (tests/drivers/memory.c)."""
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from conftest import build_dir, slow

KIB = 1024


def ray_memory(cluster, *args, status=0, env=None, prefix=(), timeout=30):
    """What `ray memory` prints, parsed if it is JSON; its stderr beside it."""
    done = subprocess.run([*prefix, build_dir() / "bin" / "ray", "memory", f"--timeout={slow()}", *map(str, args)],
                          env=cluster.env(**(env or {})), capture_output=True, text=True, timeout=timeout * slow(),
                          check=False)
    assert done.returncode == status, f"status {done.returncode}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return (json.loads(done.stdout) if "--format=json" in args and done.stdout else done.stdout), done.stderr


def start(cluster, *args):
    """A program that has got to "ready", and the ids of its objects by their names."""
    program = cluster.start("memory", *args)
    program.expect(r"^ready$", timeout=30)
    ids = dict(re.findall(r"^(\w+) (\w+)$", program.out, re.M))
    return program, ids


def finish(program):
    program.say("end")
    assert program.wait() == 0


def rows_of(answer, object_id):
    return [r for r in answer["objects"] if r["object_id"] == object_id]


def row_of(answer, object_id, **wanted):
    rows = [r for r in rows_of(answer, object_id) if all(r[k] == v for k, v in wanted.items())]
    assert len(rows) == 1, (wanted, rows_of(answer, object_id))
    return rows[0]


def agrees(cluster):
    out, err = ray_memory(cluster, "--check")
    assert "all agree" in out and not err, (out, err)


def test_what_a_program_has_itself(cluster):
    program, ids = start(cluster, "own")
    answer, err = ray_memory(cluster, "--format=json")
    assert not err
    expected = {
        # name: kind, size, status, in the store, handles, views
        "small": ("LOCAL_REFERENCE", None, "-", False, 1, 0),
        "large": ("LOCAL_REFERENCE", 300 * KIB, "-", True, 1, 0),
        "inner": ("CAPTURED_IN_OBJECT", 400 * KIB, "-", True, 0, 0),
        "inner_small": ("CAPTURED_IN_OBJECT", None, "-", False, 0, 0),
        "outer": ("LOCAL_REFERENCE", None, "-", True, 1, 0),
        "viewed": ("PINNED_IN_MEMORY", 500 * KIB, "-", True, 1, 1),
        "view_only": ("PINNED_IN_MEMORY", 600 * KIB, "-", True, 0, 1),
        "freed": ("PINNED_IN_MEMORY", 700 * KIB, "FREED", True, 1, 1),
        "twice": ("LOCAL_REFERENCE", 800 * KIB, "-", True, 2, 0),
        "done": ("LOCAL_REFERENCE", 1, "FINISHED", False, 1, 0),
        "failed": ("LOCAL_REFERENCE", None, "FAILED", False, 1, 0),
    }
    lines = Path("tests/drivers/memory.c").read_text().splitlines()
    for name, (kind, size, status, in_store, handles, views) in expected.items():
        row = row_of(answer, ids[name])
        assert row["reference_type"] == kind, row
        assert row["object_size"] == size or size is None and row["object_size"] > 0, row
        assert (row["task_status"], row["in_store"], row["local_references"], row["views"]) == (
            status, in_store, handles, views), row
        assert (row["pid"], row["type"], row["owner_pid"], row["is_owner"]) == (
            program.pid, "Driver", program.pid, True), row
        file, line = row["call_site"].split(":")
        assert file == "memory.c" and ("put" in lines[int(line) - 1] or "remote" in lines[int(line) - 1]
                                       or "seal" in lines[int(line) - 1]), row
    assert row_of(answer, ids["inner"])["captured_in_objects"] == 1
    assert len(answer["objects"]) == len(expected)
    assert answer["store"]["objects"] == sum(e[3] for e in expected.values())
    agrees(cluster)
    finish(program)


def test_what_tasks_hold(cluster):
    program, ids = start(cluster, "pending")
    answer, err = ray_memory(cluster, "--format=json")
    assert not err
    for name, tasks in (("by_ref", 1), ("in_list", 1), ("both", 1), ("running", 1)):
        row = row_of(answer, ids[name], pid=program.pid)
        assert (row["reference_type"], row["used_by_tasks"]) == ("USED_BY_PENDING_TASK", tasks), row
    assert row_of(answer, ids["running"])["task_status"] == "SUBMITTED_TO_WORKER"
    assert row_of(answer, ids["queued"])["task_status"] == "PENDING_NODE_ASSIGNMENT"
    assert row_of(answer, ids["waits"])["task_status"] == "PENDING_ARGS_AVAIL"
    in_list = row_of(answer, ids["in_list"], type="Worker")  # while the body runs: it may look inside its list
    assert (in_list["reference_type"], in_list["is_owner"], in_list["owner_pid"]) == (
        "LOCAL_REFERENCE", False, program.pid), in_list
    by_ref = row_of(answer, ids["by_ref"], pid=program.pid)
    assert by_ref["pins_of_all"] == 1 and not [r for r in rows_of(answer, ids["by_ref"]) if r["type"] == "Worker"]
    agrees(cluster)
    finish(program)


def test_what_others_borrow(cluster):
    program, ids = start(cluster, "borrowed")
    pids = {k: int(v) for k, v in ids.items() if k in ("keeps_lent", "keeps_viewed", "owner")}
    answer, err = ray_memory(cluster, "--format=json")
    assert not err
    numbers = {p["pid"]: p["process"] for p in answer["processes"]}
    for name, kind, pins in (("lent", "LOCAL_REFERENCE", 0), ("viewed", "PINNED_IN_MEMORY", 1)):
        owner = row_of(answer, ids[name], pid=program.pid)
        assert (owner["reference_type"], owner["local_references"]) == ("BORROWED", 0), owner
        assert owner["borrowers"] == [numbers[pids[f"keeps_{name}"]]], owner
        borrower = row_of(answer, ids[name], pid=pids[f"keeps_{name}"])
        assert (borrower["reference_type"], borrower["pins"] + borrower["holds"]) == (kind, pins), borrower
        assert (borrower["is_owner"], borrower["owner_pid"], borrower["type"]) == (False, program.pid, "Worker")
        assert borrower["call_site"] == owner["call_site"] != ""
    ours = row_of(answer, ids["of_worker"], pid=program.pid)
    assert (ours["reference_type"], ours["owner_pid"], ours["is_owner"]) == ("CAPTURED_IN_OBJECT", pids["owner"], False) or (
        ours["reference_type"], ours["owner_pid"]) == ("LOCAL_REFERENCE", pids["owner"]), ours
    agrees(cluster)
    finish(program)
