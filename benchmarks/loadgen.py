"""Builds the compiled load generator on first use, and runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError

SOURCES = Path(__file__).parent / "load"
BUILD = Path(__file__).parent / "build"


def build(name: str, sources: Sequence[Path], headers: Sequence[Path] = (), options: Sequence[str] = ()) -> Path:
    """Compiles `sources` to build/`name` unless it is newer than all of them; returns its path."""
    target = BUILD / name
    newest = max(path.stat().st_mtime for path in (*sources, *headers))
    if target.exists() and target.stat().st_mtime > newest:
        return target
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchmarkError("the load generator needs a C compiler: apt-get install gcc libc6-dev")
    BUILD.mkdir(exist_ok=True)
    fresh = BUILD / f"{name}.{os.getpid()}"
    command = [compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-o", str(fresh), *map(str, sources), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        hint = ""
        if "No such file or directory" in done.stderr and ".h:" in done.stderr:
            hint = "\nThe C library's headers seem to be missing: apt-get install libc6-dev"
            if "openssl/" in done.stderr:
                hint = "\nLoads over TLS need OpenSSL's headers: apt-get install libssl-dev"
        raise BenchmarkError(f"{' '.join(command)}\n{done.stderr.strip()}{hint}")
    fresh.replace(target)
    return target


def build_load(*, tls: bool = False) -> Path:
    """The load generator's path, built if need be; the one that can speak TLS needs OpenSSL."""
    sources, headers = sorted(SOURCES.glob("*.c")), sorted(SOURCES.glob("*.h"))
    if tls:
        return build("load-tls", sources, headers, ("-DLOAD_TLS", "-lssl", "-lcrypto"))
    return build("load", sources, headers)


@dataclass(frozen=True)
class LoadSpec:
    """One run of the load generator.  Times in seconds, `rate` in requests a second (0: closed loop)."""

    mode: str
    port: int
    path: str = "/"
    size: int = 128
    tls: bool = False
    connections: int = 64
    seconds: float = 3.0
    warmup: float = 0.5
    timeout: float = 5.0
    rate: float = 0.0
    cpu: int | None = None
    fifo: int = 0
    server_pid: int | None = None
    counters: tuple[int, ...] = ()

    def arguments(self) -> list[str]:
        args = [
            f"--mode={self.mode}",
            f"--port={self.port}",
            f"--path={self.path}",
            f"--size={self.size}",
            f"--connections={self.connections}",
            f"--seconds={self.seconds}",
            f"--warmup={self.warmup}",
            f"--timeout={self.timeout}",
            f"--rate={self.rate}",
            f"--fifo={self.fifo}",
        ]
        if self.tls:
            args.append("--tls")
        if self.cpu is not None:
            args.append(f"--cpu={self.cpu}")
        if self.server_pid is not None:
            args.append(f"--server-pid={self.server_pid}")
        if self.counters:
            args.append("--counters=" + ",".join(map(str, self.counters)))
        return args


def run_load(spec: LoadSpec) -> dict[str, Any]:
    """Runs the load and returns what the generator printed; BenchmarkError if it failed or hung."""
    limit = spec.warmup + spec.seconds + 3 * spec.timeout + 15
    command = [str(build_load(tls=spec.tls)), *spec.arguments()]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, pass_fds=spec.counters, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"the load generator did not end within {limit:g} s") from error
    if done.returncode:
        raise BenchmarkError(done.stderr.strip() or f"the load generator ended with status {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
