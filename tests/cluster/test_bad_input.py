# SPDX-License-Identifier: Apache-2.0
"""What a user gets for a broken executable, folder or machine: a sentence that names cause and fix."""
import os
import re
import shutil
import stat
import subprocess

import pytest
from conftest import ROOT, build_dir, library_dir


def says_why(program, *words, timeout=15):
    """The next error line holds all these words."""
    line = program.expect(r"^error \d+ signal \d+ (.*)$", timeout).group(1)
    for word in words:
        assert re.search(word, line, re.I), f"{word!r} not in: {line}"
    return line


def copy(cluster):
    path = cluster.path / "program"
    shutil.copy(cluster.program("hold"), path)
    return path


def finish(program, status=0):
    program.say("shutdown")
    program.say(f"exit {status}")
    assert program.wait() == status, repr(program)


def test_executable_lost_its_exec_bit(cluster):
    path = copy(cluster)
    program = cluster.start(path, env=with_library())
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    program.say("init 2")
    program.say("task")
    says_why(program, "executable|permission")
    program.say("exit 0")
    assert program.wait() == 0


def test_executable_was_replaced(cluster):
    """What was started is what runs, not what lies at its path now."""
    path = copy(cluster)
    program = cluster.start(path, env=with_library())
    path.unlink()
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    program.say("init 2")
    program.say("task")
    program.expect(r"^ok 42$")
    finish(program)


@pytest.mark.parametrize("status", [0, 3])
def test_executable_prints_and_exits_at_load(cluster, status):
    program = cluster.start("hold", env={"HOLD_EXITS_AT_LOAD": status})
    program.say("init 2")
    program.say("task")
    says_why(program, "worker", "no licence found")
    program.say("task")
    finish(program)


def with_library():
    return {"LD_LIBRARY_PATH": str(library_dir())}


def compile_program(cluster, source, *more):
    path = cluster.path / "compiled"
    flags = os.environ.get("SAN")
    subprocess.run(
        ["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-o", path, *([f"-fsanitize={flags}"] if flags else []), source,
         f"-I{ROOT}", f"-I{ROOT}/lib/api/include", *more],
        check=True, cwd=cluster.path)
    return path


def link_ray():
    return [f"-L{library_dir()}", f"-Wl,-rpath,{library_dir()}", "-lray"]


def test_executable_misses_a_library(cluster):
    (cluster.path / "extra.c").write_text("int extra;\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "libextra.so", "extra.c"], check=True, cwd=cluster.path)
    path = compile_program(cluster, ROOT / "tests/drivers/hold.c", *link_ray(), "-Wl,--no-as-needed",
                           f"-L{cluster.path}", f"-Wl,-rpath,{cluster.path}", "-lextra")
    program = cluster.start(path)
    program.say("hello")
    program.expect(r"^what is hello")  # it runs: the loader is done
    (cluster.path / "libextra.so").unlink()
    program.say("init 2")
    program.say("task")
    program.expect(r"^error .*libextra\.so", 15)
    finish(program)


def test_libray_was_rebuilt_meanwhile(cluster):
    """A program that has loaded the old file gets workers that load the new one: refused, the reason told."""
    folder = cluster.path / "lib"
    folder.mkdir()
    library = folder / "libray.so.1"
    shutil.copy(library_dir() / "libray.so.1", library)
    env = {"LD_LIBRARY_PATH": str(folder), "RAY_RAYLET": build_dir() / "bin" / "raylet"}
    program = cluster.start("hold", env=env)
    program.say("hello")
    program.expect(r"^what is hello")  # it runs: the loader is done
    data = bytearray(library.read_bytes())
    note = data.index(b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0")  # name 4, build id 20, type 3
    data[note + 16] ^= 0xff
    library.unlink()  # the old file is mapped: it must stay as it is
    library.write_bytes(data)
    program.say("init 2")
    program.say("task")
    says_why(program, "libray was replaced", "start the program again")
    finish(program)
    program = cluster.start("hold", env=env)  # all of one build again
    program.say("init 2")
    program.say("task")
    program.expect(r"^ok 42$")
    finish(program)


def test_executable_bound_to_libc_first(cluster):
    path = compile_program(cluster, ROOT / "tests/drivers/hold.c", "-Wl,--no-as-needed", "-lc", *link_ray())
    program = cluster.start(path)
    program.say("init 2")
    program.say("task")
    says_why(program, "-lray")
    finish(program)


def test_executable_with_threads_before_main(cluster):
    (cluster.path / "threads.c").write_text("""
#include <pthread.h>
#include <unistd.h>
static void *f(void *p) { for (;;) pause(); return p; }
__attribute__((constructor)) static void c(void) { pthread_t t; pthread_create(&t, NULL, f, NULL); }
""")
    path = compile_program(cluster, ROOT / "tests/drivers/hold.c", "threads.c", *link_ray())
    program = cluster.start(path)
    program.say("init 2")
    program.say("task")
    says_why(program, "thread")
    finish(program)


@pytest.mark.parametrize("kind", ["a file", "no parent", "read only"])
def test_temp_folder_cannot_be_used(cluster, kind):
    if kind == "a file":
        folder = cluster.path / "file"
        folder.write_text("")
    elif kind == "no parent":
        folder = cluster.path / "not" / "there"
    else:
        folder = "/proc/sys"
    program = cluster.start("hold", env={"RAY_TMPDIR": folder})
    program.say("init 2")
    line = says_why(program, re.escape(str(folder)), "RAY_TMPDIR|temp.dir")
    assert len(line) < 1000
    program.say("task")  # not connected: an error again, no hang
    program.say("exit 0")
    assert program.wait() == 0


def test_temp_folder_is_full(cluster):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = cluster.path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=3", "none", folder], check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        program = cluster.start("hold", env={"RAY_TMPDIR": folder})
        program.say("init 2")
        says_why(program, re.escape(str(folder)), "RAY_TMPDIR|temp.dir")
        program.say("exit 0")
        assert program.wait() == 0
        cluster.processes_gone()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_no_raylet_binary(cluster):
    program = cluster.start("hold", env={"RAY_RAYLET": "/no/such/raylet"})
    program.say("init 2")
    says_why(program, "/no/such/raylet", "RAY_RAYLET")
    program.say("exit 0")
    assert program.wait() == 0


def test_raylet_that_ends_at_once(cluster):
    program = cluster.start("hold", env={"RAY_RAYLET": "/bin/false"})
    program.say("init 2")
    says_why(program, "raylet", "status 1")
    program.say("exit 0")
    assert program.wait() == 0


def test_a_cluster_that_does_not_start_is_tried_once(cluster):
    """By submissions: a program of many does not start as many raylets."""
    raylet, starts = cluster.path / "raylet", cluster.path / "starts"
    raylet.write_text(f"#!/bin/sh\necho >>{starts}\nexit 1\n")
    raylet.chmod(0o755)
    program = cluster.start("hold", env={"RAY_RAYLET": raylet})
    for line in ["task", "task", "task", "init 2", "exit 0"]:
        program.say(line)
    assert program.wait() == 0
    assert program.out.count("the raylet exited with status 1") == 4, repr(program)
    assert starts.read_text() == "\n\n", "once for the tasks, once for ray_init"


def test_bad_number_of_cpus(cluster):
    program = cluster.start("hold")
    program.say("init -3")
    says_why(program, "num_cpus")
    program.say("init 2")
    program.expect(r"^ok \d+$")
    finish(program)


def test_mode_variable_set_by_a_user(cluster):
    program = cluster.start("hold", env={"RAY_WORKER_MODE": "zygote:77:78"})
    assert program.wait() == 126
    assert "RAY_WORKER_MODE" in program.err
