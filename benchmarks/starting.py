"""What it takes until a program runs: importing the package, and installing it up to the first answer.

    python -m benchmarks.starting --rounds 20
    python -m benchmarks.starting --wheel build/wheels/flexsc_loop-….whl

A wheel is installed by the Python that runs this, into a new virtual environment whose programs find no compiler and no
network; what is imported then is what was installed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError

BARE = "asyncio"
MEASURED = "flexsc_loop"
LIMIT_S = 120.0

IMPORT = """
import sys, time
cpu, wall = time.process_time(), time.perf_counter()
__import__(sys.argv[1])
print(time.process_time() - cpu, time.perf_counter() - wall)
with open("/proc/self/smaps_rollup") as file:
    lines = [line.split() for line in file]
print(sum(int(line[1]) for line in lines if line[0] in ("Private_Clean:", "Private_Dirty:")))
"""

SERVE = """
import asyncio, flexsc_loop

async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nhello")
    writer.close()

async def main():
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        assert (await reader.read()).endswith(b"hello")
        writer.close()

flexsc_loop.run(main())
"""


@dataclass(frozen=True)
class Import:
    """What one import took, in a process of its own: CPU and wall-clock seconds, and private memory in bytes."""

    cpu_s: float
    wall_s: float
    memory: int


def run(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> str:
    """A command's output.  Raises BenchmarkError with what it complained of."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise BenchmarkError(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def import_once(python: str | Path, module: str) -> Import:
    """Import `module` in a new process, isolated from the current folder."""
    cpu_s, wall_s, memory_kib = run([python, "-I", "-c", IMPORT, module]).split()
    return Import(float(cpu_s), float(wall_s), int(memory_kib) * 1024)


def import_both(python: str | Path, rounds: int) -> list[tuple[Import, Import]]:
    """Pairs of imports, the bare one first, made to and fro.  The first, which fill the cache of files, don't count."""
    pairs = []
    for number in range(-1, rounds):
        order = (BARE, MEASURED) if number % 2 else (MEASURED, BARE)
        found = {module: import_once(python, module) for module in order}
        if number >= 0:
            pairs.append((found[BARE], found[MEASURED]))
    return pairs


def install(wheel: Path, folder: Path) -> tuple[Path, float, float]:
    """A new environment's Python, and the seconds for installing and for the first answer after that."""
    venv.create(folder, with_pip=True, symlinks=True)
    environment = {"PATH": str(folder / "bin"), "HOME": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    python = folder / "bin" / "python"
    began = time.perf_counter()
    run([python, "-m", "pip", "install", "--quiet", "--no-index", wheel], environment)
    installed = time.perf_counter()
    run([python, "-I", "-c", SERVE], environment)
    return python, installed - began, time.perf_counter() - installed


def more(pairs: Sequence[tuple[Import, Import]]) -> str:
    """By how much importing this package costs more than importing asyncio.

    CPU time and memory are medians of the pairs' differences; time is that between the fastest of each, since others
    may have the CPUs.
    """
    cpu_s = statistics.median(ours.cpu_s - bare.cpu_s for bare, ours in pairs)
    wall_s = min(ours.wall_s for _, ours in pairs) - min(bare.wall_s for bare, _ in pairs)
    memory = statistics.median(ours.memory - bare.memory for bare, ours in pairs)
    return (
        f"importing {MEASURED}, more than {BARE}: {cpu_s * 1e3:.1f} ms of CPU, {wall_s * 1e3:.1f} ms, "
        f"{memory / 2**20:.2f} MiB of private memory"
    )


def main(words: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starting", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--wheel", type=Path, help="install this one, and measure what was installed")
    asked = parser.parse_args(words)
    try:
        if asked.wheel and not asked.wheel.exists():
            raise BenchmarkError(f"there is no {asked.wheel}")
        with tempfile.TemporaryDirectory() as folder:
            python: str | Path = sys.executable
            if asked.wheel:
                python, install_s, answer_s = install(asked.wheel.resolve(), Path(folder))
                print(f"pip install: {install_s:.2f} s; start to first answer: {answer_s:.2f} s")
            print(f"Python {run([python, '-V']).split()[1]}, {os.cpu_count()} CPUs, {asked.rounds} rounds")
            print(more(import_both(python, asked.rounds)))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
