# SPDX-License-Identifier: Apache-2.0
"""Programs that are linked in other ways than the manual's."""
import os
import subprocess

import pytest
from conftest import ROOT, build_dir, library_dir
from test_bad_input import compile_program, finish, link_ray, says_why

STATIC = """
#define main hold_main
#include "tests/drivers/hold.c"
#undef main
int main(int argc, char **argv)
{
%s
    return hold_main();
}
"""


def static_program(cluster, first):
    if os.environ.get("SAN"):
        pytest.skip("sanitizers do not link statically")
    source = cluster.path / "static.c"
    source.write_text(STATIC % first)
    return compile_program(cluster, source, "-static", f"-L{library_dir()}", "-lray", "-lmsgpackc", "-lpthread", "-lm")


def test_a_static_program(cluster):
    path = static_program(cluster, "    if (ray_worker_main(argc, argv) != -1) return 9;")
    assert subprocess.run(["ldd", path], capture_output=True, check=False).returncode == 1  # not dynamic
    program = cluster.start(path, env={"PATH": f"/nowhere::{build_dir() / 'bin'}:{os.environ['PATH']}"})
    program.say("init 2")
    program.say("task")
    program.expect(r"^ok 42$")
    program.say("descend 3")
    program.expect(r"^ok 3$")
    finish(program)


def test_a_static_program_that_finds_no_raylet(cluster):
    path = static_program(cluster, "    ray_worker_main(argc, argv);")
    program = cluster.start(path, env={"PATH": "/usr/bin:/bin"})
    program.say("init 2")
    says_why(program, "PATH", "RAY_RAYLET")
    program.say("exit 0")
    assert program.wait() == 0


def test_a_static_program_without_its_first_line(cluster):
    """Its zygote runs the user's main: it must not start a cluster there, which would start another."""
    path = static_program(cluster, "    (void)argc, (void)argv; if (getppid() != %d) obey((char[]){\"init 2\"});" % os.getpid())
    program = cluster.start(path, env={"RAY_RAYLET": build_dir() / "bin" / "raylet"})
    program.say("init 2")
    program.say("task")
    says_why(program, "ray_worker_main", "main")
    assert len([p for p in cluster.processes() if "raylet" in p.name]) == 1
    finish(program)


def test_a_constructor_that_starts_a_cluster(cluster):
    """In the zygote too, before main: there it must not."""
    (cluster.path / "early.c").write_text("""
#include <ray/ray.h>
__attribute__((constructor)) static void early(void) { ray_init(RAY_CONFIG(.num_cpus = 2)); }
""")
    path = compile_program(cluster, ROOT / "tests/drivers/hold.c", "early.c", *link_ray())
    program = cluster.start(path)
    program.say("task")
    says_why(program, "ray_init", "constructor")
    assert len([p for p in cluster.processes() if "raylet" in p.name]) == 1
    finish(program)


def test_libray_preloaded_into_a_program_bound_to_libc_first(cluster):
    """Found first by its name it is, but bound by its version is libc's start."""
    if os.environ.get("SAN"):
        pytest.skip("a sanitizer's library wants to be the first itself")
    path = compile_program(cluster, ROOT / "tests/drivers/hold.c", "-Wl,--no-as-needed", "-lc", *link_ray())
    preload = [os.environ.get("LD_PRELOAD", ""), str(library_dir() / "libray.so.1")]
    program = cluster.start(path, env={"LD_PRELOAD": ":".join(filter(None, preload))})
    program.say("init 2")
    program.say("task")
    says_why(program, "bound to libc", "-lray")
    finish(program)
