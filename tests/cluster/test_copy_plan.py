# SPDX-License-Identifier: Apache-2.0
"""How to copy into the object store is a fact of the machine, which its raylet tells every process."""
import os
from pathlib import Path

PLAN = 0x4181
PLAN_AT = 24  # in struct control_block


def plan_of(pid):
    """What stands in the control block of this process."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "memfd:ray-control" in line:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                memory.seek(int(line.split("-")[0], 16) + PLAN_AT)
                return int.from_bytes(memory.read(8), "little")
    return None


def test_a_kept_plan_is_told_to_every_process(cluster):
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (cluster.temp / f"machine-{boot}-{os.geteuid()}").write_text(
        f"layout 2\nn_cpus 2\nwake_ns 20000\ntrip_ns 40000\ncopy_mb_per_s 5000\ncopy_plan {PLAN:x}\n")
    program = cluster.start("hold")
    program.say("init 2")
    program.say("task")
    program.expect(r"^ok 42$")
    assert plan_of(program.pid) == PLAN
    assert {plan_of(worker.pid) for worker in cluster.workers(program)} == {PLAN}
    program.say("shutdown")
    program.say("exit 0")
    assert program.wait() == 0
