"""fio, as Debian packages it: what the machine does with the same pattern from C, without Python."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.files.loads import Sample
from benchmarks.files.place import APPENDED, BLOCK, MIB, WRITTEN, Place, drop

LIMIT_S = 120


def jobs(load: str, place: Place) -> dict[str, list[str]]:
    """fio's options by the name of a variant; none where fio has nothing to say of a load."""
    large = [f"--filename={place.large}", f"--size={place.mib}m"]
    depth = ["--ioengine=io_uring", "--iodepth=64"]
    plain = ["--ioengine=psync", "--thread"]
    return {
        "cold64": {
            "fio": [*large, *depth, "--rw=randread", "--bs=4k"],
            "fio direct": [*large, *depth, "--rw=randread", "--bs=4k", "--direct=1"],
        },
        "append": {
            "fio": [*plain, "--rw=write", "--bs=4k", "--fdatasync=1", f"--numjobs={APPENDED}", "--size=64m",
                    f"--directory={place.folder}", "--filename_format=appended-$jobnum", "--file_append=1"],
        },
        "write": {
            "fio": [*plain, "--rw=write", "--bs=1m", f"--numjobs={WRITTEN}", f"--size={place.written_size}",
                    f"--directory={place.folder}", "--filename_format=written-$jobnum"],
        },
        "through": {"fio": [*large, *plain, "--rw=read", "--bs=1m"]},
    }.get(load, {})  # fmt: skip


def variants(load: str, place: Place) -> list[str]:
    """The names of what fio can measure for a load."""
    return list(jobs(load, place))


def run(load: str, variant: str, place: Place, seconds: float) -> Sample:
    """One window.  Raises BenchmarkError when fio is not there or fails."""
    program = shutil.which("fio")
    if program is None:
        raise BenchmarkError("fio is not installed: apt-get install fio")
    options = jobs(load, place)[variant]
    unit = BLOCK
    if load in ("write", "through"):
        unit = MIB
    if load in ("cold64", "through"):
        drop(place.large)
    if load == "append":
        place.empty()
    timed = [] if load == "through" else ["--time_based", f"--runtime={round(seconds * 1000)}ms"]
    command = [program, "--name=job", "--output-format=json", "--group_reporting", "--invalidate=0", "--randrepeat=0",
               "--overwrite=0", "--fallocate=none", *timed, *options]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise BenchmarkError(f"fio failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return sample(json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0], unit)


def sample(job: dict[str, Any], unit: int) -> Sample:
    """What one group of fio's JSON says, in units of so many bytes."""
    side = max((job["read"], job["write"]), key=lambda one: one["io_bytes"])
    units = side["io_bytes"] / unit
    if not units:
        raise BenchmarkError("fio has read and written nothing")
    runtime_us = job["job_runtime"] * 1000.0
    cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * runtime_us
    return Sample(units / (side["runtime"] / 1000), cpu / units)
