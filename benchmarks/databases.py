"""Real database servers on a free loopback port, each in a temporary folder of its own.

Owns: PostgreSQL, MariaDB and Redis as Debian packages them, started as an unprivileged user where this is root
(PostgreSQL insists on that), ended by force at the end, and by the kernel if this process dies.  Nothing is kept.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.errors import BenchmarkError

USER, PASSWORD, DATABASE = "flexsc", "secret", "flexsc"
START_LIMIT_S = 40.0
STOP_LIMIT_S = 10.0
PORTS = range(20000, 32000)
"""Below the ephemeral ports: no outgoing connection takes one of these while a server starts."""


class NotInstalledError(BenchmarkError):
    """A server's program is not there; the message says which package has it."""


def free_port() -> int:
    """A port on which nobody listens now."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchmarkError("no free port was found")


def find_program(name: str, package: str, folders: Sequence[str] = ()) -> str:
    """The path of a server's program; NotInstalledError, naming the Debian package, when it is not there."""
    path = os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise NotInstalledError(f"{name} is not installed: apt-get install {package}")
    return found


@dataclass(frozen=True)
class Place:
    """Where a server runs: its CPUs, and its real-time priority (0: none)."""

    cpus: tuple[int, ...]
    fifo: int = 0

    def command(self) -> list[str]:
        return ["taskset", "-c", ",".join(map(str, self.cpus)), *(["chrt", "-f", str(self.fifo)] if self.fifo else [])]


@dataclass(frozen=True)
class Database:
    """A running server: where it listens, and with which process; `socket` is the path of its Unix socket."""

    port: int
    pid: int
    folder: Path
    socket: Path

    def cpu_ns(self) -> int:
        """CPU time so far of all its processes, those that it has waited for included."""
        ticks = 0
        for pid in (self.pid, *_children(self.pid)):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended, and counts as waited for from now on
            ticks += sum(map(int, fields[11:15]))
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()
    ]


class Folder:
    """A temporary folder that belongs to the user as whom a server runs; gone at the end of the with block."""

    def __init__(self, user: str) -> None:
        self.ids: tuple[int, int] | None = None
        if os.geteuid() == 0:
            try:
                entry = pwd.getpwnam(user)
            except KeyError:
                entry = pwd.getpwnam("nobody")
            self.ids = (entry.pw_uid, entry.pw_gid)

    def __enter__(self) -> Folder:
        # A Unix socket's path may have 107 characters: not below a long TMPDIR.
        self.path = Path(tempfile.mkdtemp(prefix="flexsc-", dir="/tmp"))
        self.own(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def own(self, path: Path) -> None:
        if self.ids:
            os.chown(path, *self.ids)

    def write(self, name: str, text: str, mode: int = 0o600) -> Path:
        """A small file that the server may read."""
        path = self.path / name
        path.write_text(text)
        path.chmod(mode)
        self.own(path)
        return path

    def command(self, command: Sequence[str], place: Place | None = None) -> list[str]:
        """`command` as that user, ended by the kernel when this process dies, in its place if it has one."""
        drop = []
        if self.ids:
            drop = [f"--reuid={self.ids[0]}", f"--regid={self.ids[1]}", "--clear-groups"]
        return [*(place.command() if place else ()), "setpriv", *drop, "--pdeathsig", "KILL", *command]

    def run(self, command: Sequence[str]) -> None:
        """Run a program to its end; BenchmarkError with its last words when it fails."""
        done = subprocess.run(
            self.command(command),
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise BenchmarkError(f"{command[0]} failed: {done.stdout.strip()[-2000:]}")


def _wait_until_ready(process: subprocess.Popen[bytes], log: IO[str], ready: str) -> None:
    end = time.monotonic() + START_LIMIT_S
    while True:
        log.seek(0)
        text = log.read()
        if ready in text:
            return
        if process.poll() is not None or time.monotonic() > end:
            raise BenchmarkError(f"a database server did not start: {text.strip()[-2000:]}")
        time.sleep(0.02)


@contextmanager
def _serving(folder: Folder, command: Sequence[str], ready: str, place: Place | None) -> Iterator[int]:
    """Runs a server until the end of the block; its process id, once it has written `ready`."""
    with open(folder.path / "log", "w+") as log:
        process = subprocess.Popen(
            folder.command(command, place),
            cwd=folder.path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_ready(process, log, ready)
            yield process.pid
        finally:
            # SIGINT: at once, without waiting for clients.  PostgreSQL would wait for them on SIGTERM.
            process.send_signal(signal.SIGINT if "postgres" in command[0] else signal.SIGTERM)
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@dataclass(frozen=True)
class Certificate:
    """PEM texts for a server that is to offer TLS."""

    key: str
    chain: str


@contextmanager
def postgresql(*, place: Place | None = None, certificate: Certificate | None = None) -> Iterator[Database]:
    """PostgreSQL with one superuser, USER, who has to prove PASSWORD, and the database DATABASE."""
    folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    server = find_program("postgres", "postgresql", folders)
    initdb = find_program("initdb", "postgresql", folders)
    with Folder("postgres") as folder:
        secret = folder.write("password", PASSWORD)
        data = str(folder.path / "data")
        folder.run(
            [initdb, "-D", data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--no-locale",
             "--no-sync"]
        )
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(folder.path),
            "fsync": "off",
            "shared_buffers": "16MB",
            "autovacuum": "off",
            "max_connections": "200",
        }
        if certificate:
            key = folder.write("key.pem", certificate.key)
            chain = folder.write("chain.pem", certificate.chain)
            settings |= {"ssl": "on", "ssl_key_file": str(key), "ssl_cert_file": str(chain)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [server, "-D", data, "-p", str(port), *options]
        with _serving(folder, command, "ready to accept connections", place) as pid:
            path = folder.path / f".s.PGSQL.{port}"
            # DATABASE is named after the user, who is asked for it by default; it does not exist yet.
            createdb = find_program("createdb", "postgresql", folders)
            folder.run(["env", f"PGPASSWORD={PASSWORD}", createdb, "-h", "127.0.0.1", "-p", str(port), "-U", USER,
                        "--maintenance-db=postgres", DATABASE])
            yield Database(port, pid, folder.path, path)


@contextmanager
def mariadb(*, place: Place | None = None, certificate: Certificate | None = None) -> Iterator[Database]:
    """MariaDB with the user USER, who has to prove PASSWORD, and the database DATABASE."""
    server = find_program("mariadbd", "mariadb-server")
    install = find_program("mariadb-install-db", "mariadb-server")
    with Folder("mysql") as folder:
        data = folder.path / "data"
        common = ["--no-defaults", f"--datadir={data}"]
        folder.run([install, *common, "--skip-test-db", "--auth-root-authentication-method=normal"])
        first = folder.write(
            "first.sql",
            f"CREATE DATABASE {DATABASE};\n"
            f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO {USER}@'%';\n",
        )
        port, path = free_port(), folder.path / "socket"
        command = [
            server,
            *common,
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={path}",
            f"--pid-file={folder.path / 'pid'}",
            f"--init-file={first}",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=16M",
            "--max-allowed-packet=64M",
        ]
        if certificate:
            key = folder.write("key.pem", certificate.key)
            chain = folder.write("chain.pem", certificate.chain)
            command += [f"--ssl-key={key}", f"--ssl-cert={chain}"]
        with _serving(folder, command, "ready for connections", place) as pid:
            yield Database(port, pid, folder.path, path)


@contextmanager
def redis(*, place: Place | None = None) -> Iterator[Database]:
    """Redis, without a password and without files."""
    server = find_program("redis-server", "redis-server")
    with Folder("redis") as folder:
        port, path = free_port(), folder.path / "socket"
        command = [server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder.path), "--save", "",
                   "--unixsocket", str(path)]
        with _serving(folder, command, "Ready to accept connections", place) as pid:
            yield Database(port, pid, folder.path, path)
