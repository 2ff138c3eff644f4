# SPDX-License-Identifier: Apache-2.0
"""Limits of descriptors, processes, memory and disk: a sentence names cause and fix, and the program goes on."""
import os
import re
import subprocess

import pytest
from conftest import CARL, as_user, slow
from test_bad_input import finish, says_why

ANSWER = r"^(ok \d+|error \d+ signal \d+ \S+ \S.*)$"


def limited(cluster, *limits, **options):
    return cluster.start("/usr/bin/prlimit", *limits, cluster.program("hold"), **options)


def answers(program, *lines):
    """What it says to each line, one after the other."""
    said = []
    for line in lines:
        program.say(line)
        n = len(said) + 1
        program.expect(rf"(?s)\A(.*?(?m:{ANSWER})){{{n}}}", 20)
        said = [m.group(1) for m in re.finditer(ANSWER, program.out, re.M)]
    return said


def test_too_few_descriptors_for_a_cluster(cluster):
    program = limited(cluster, "--nofile=63")
    program.say("init 2")
    says_why(program, "63 open files", "needs 64", "ulimit -n")
    program.say("exit 0")
    assert program.wait() == 0


def test_files_that_may_not_grow(cluster):
    """SIGXFSZ would end the raylet without a word."""
    program = limited(cluster, "--fsize=40960")
    program.say("init 2")
    says_why(program, "File too large", "ulimit -f")
    program.say("exit 0")
    assert program.wait() == 0


def test_just_enough_descriptors_for_a_cluster(cluster):
    program = limited(cluster, "--nofile=64")
    program.say("init 2")
    program.say("task")
    program.expect(r"^ok 42$")
    finish(program)


def test_nested_tasks_that_need_more_workers_than_there_are_descriptors(cluster):
    """All workers wait for one that cannot be started: none of them will ever end to make room."""
    program = limited(cluster, "--nofile=64")
    program.say("init 2")
    program.say("descend 40")
    says_why(program, "no worker can be started", "ulimit -n", timeout=30)
    program.say("task")
    program.expect(r"^ok 42$")
    finish(program)


def user_program(cluster, public_build, *limits):
    """Of a user with no other process: root is not limited."""
    return cluster.start("/usr/bin/prlimit", *limits, *as_user(CARL), public_build / "tests/drivers/hold",
                         env={"RAY_TMPDIR": public_build / "temp"})


@pytest.mark.skipif(bool(os.environ.get("SAN")), reason="sanitizers run threads of their own")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_process_table_is_full(cluster, public_build, n):
    """No room for the raylet; the zygote; a worker."""
    program = user_program(cluster, public_build, f"--nproc={n}")
    said = answers(program, "init 2", "task")
    assert "ulimit -u" in said[-1], said
    program.say("exit 0")
    assert program.wait() == 0
    cluster.processes_gone()


def test_process_table_has_room_again(cluster, public_build):
    """Without room for more a deep chain fails; what fits runs then."""
    if os.environ.get("SAN"):
        pytest.skip("sanitizers run threads of their own")
    program = user_program(cluster, public_build, "--nproc=16")
    said = answers(program, "init 2", "task", "descend 40", "task")
    assert said[1] == "ok 42" and "ulimit -u" in said[2] and said[3] == "ok 42", said
    finish(program)


@pytest.mark.skipif(bool(os.environ.get("SAN")), reason="sanitizers reserve terabytes")
@pytest.mark.parametrize("mib", [8, 32, 159])
def test_too_little_memory_for_a_cluster(cluster, mib):
    program = limited(cluster, f"--as={mib << 20}")
    program.say("init 2")
    says_why(program, "memory", "ulimit -v")
    program.say("exit 0")
    assert program.wait() == 0


@pytest.mark.skipif(bool(os.environ.get("SAN")), reason="sanitizers reserve terabytes")
@pytest.mark.parametrize("mib", [160, 256, 1024])
def test_the_object_store_fits_into_the_memory_that_is_allowed(cluster, mib):
    program = limited(cluster, f"--as={mib << 20}")
    assert answers(program, "init 2", "task", "descend 8")[1:] == ["ok 42", "ok 8"]
    finish(program)


@pytest.mark.skipif(bool(os.environ.get("SAN")), reason="sanitizers reserve terabytes")
@pytest.mark.parametrize("start", [[], ["warm"]], ids=["cold", "warm"])
def test_a_program_whose_memory_ends(cluster, start):
    """It ends where nothing else can be done, with a sentence; else its tasks fail with one. None waits."""
    seen = set()
    for kib in [*range(0, 1024, 96), 1536, 2048, 3072, 4096, 8192, 16384]:
        program = cluster.start("faults", "memory_ends", kib << 10, *start)
        if program.wait() == 0:
            seen.add(re.search(r"^(\d+) results$", program.out, re.M).group(1))
        else:
            assert program.process.returncode == -6 and "ray: out of memory" in program.err, repr(program)
    assert "16" in seen and len(seen) > 1, seen


@pytest.fixture
def small_disk(cluster):
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = cluster.path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
        for _ in range(1 << 10):
            file.write(b"x" * 4096)
    return filler


def test_disk_is_full_at_start(cluster, small_disk):
    filler = fill(small_disk)
    program = cluster.start("hold", env={"RAY_TMPDIR": small_disk})
    program.say("init 2")
    says_why(program, re.escape(str(small_disk)), "RAY_TMPDIR", "space")
    filler.unlink()
    program.say("init 2")
    program.say("task")
    program.expect(r"^ok 42$")
    finish(program)
    assert [p.name for p in small_disk.iterdir() if p.name.startswith("session")] == []


def test_disk_fills_up_while_tasks_run(cluster, small_disk):
    """Logs are cut short; tasks and the end of the cluster do not need the disk."""
    program = cluster.start("hold", env={"RAY_TMPDIR": small_disk})
    program.say("init 2")
    program.say("task")
    program.expect(r"^ok 42$")
    fill(small_disk)
    program.say("descend 12")  # new workers, whose logs have no room
    program.expect(r"^ok 12$", 10 * slow())
    finish(program)
    assert [p.name for p in small_disk.iterdir() if p.name.startswith("session")] == []
