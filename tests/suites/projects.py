"""Projects whose own tests pytest runs, each in an environment of its own under build/suites.

What a project needs is fetched once, by pip: its package, what its tests need, and the tests themselves, out of its
source distribution (one that has none says in its module where they come from).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.suites.runs import Exclusion, Part
from tests.support import ROOT

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
#: The two ways in which a syscall thread serves the page.
PINNED = ("kernel-sqpoll", "user-pinned")

#: Fetches the source of a project into a folder.
Fetch = Callable[["Project", Path], None]


class NotPublished(RuntimeError):
    """A project's tests are in its repository only."""


@dataclass(frozen=True)
class Project:
    """A project and how its tests are run.

    name, version: the package's.  requirements: what the tests need beside it, as pip's arguments; {source} is the
    folder of what was taken.  take: files and folders of the source.  tests: patterns of the test files.
    groups: parts, each with patterns of its files; the other files are the part "rest".  quick: patterns of the files
    that `.ci/run` has time for.  options: pytest's.  fetch: where the source comes from; None: the package itself
    brings its tests.  green: it has blocking code: patched and in a green thread it is ours, else the standard one.
    """

    name: str
    version: str
    excluded: tuple[Exclusion, ...]
    quick: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    take: tuple[str, ...] = ("tests", "pyproject.toml")
    tests: tuple[str, ...] = ("tests/**/test_*.py",)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    seconds: float = 900.0
    test_seconds: float = 30.0
    fetch: Fetch | None = None
    green: bool = False

    def exclusions(self) -> list[Exclusion]:
        return [one for one in self.excluded if one.holds(VERSION)]

    def parts(self, quick: bool, checkout: Path | None = None) -> list[Part]:
        """Parts that run test files of one kind; fetches what is not here yet.  Raises RuntimeError when it can't.

        checkout: the project's repository, whose tests and package are taken instead.
        """
        folder, python = self.prepare(checkout)
        files = sorted({path for pattern in self.tests for path in folder.glob(pattern)})
        names = [str(path.relative_to(folder)) for path in files]
        if quick:
            # One each: they are few, and run beside each other.
            return [self.part(name, python, folder, [name]) for name in matching(names, self.quick)]
        parts = []
        for name, patterns in self.groups.items():
            chosen = matching(names, patterns)
            names = [one for one in names if one not in chosen]
            parts.append(self.part(name, python, folder, chosen))
        return [*parts, self.part("rest", python, folder, names)] if names else parts

    def part(self, name: str, python: Path, folder: Path, files: list[str]) -> Part:
        config = [path for path in (folder / "pytest.ini", folder / "pyproject.toml") if path.exists()]
        options = [
            "-q", "-p", "suites.pytest_plugin", "-p", "no:cacheprovider",
            # Never this repository's configuration, which is above.
            f"--rootdir={folder}", "-c", str([*config, os.devnull][0]),
            # Without the project's own options and limits: the plugin's limit ends the process.
            "-o", "addopts=", "-o", "faulthandler_timeout=0", *self.options,
        ]  # fmt: skip

        def command(loop: str) -> list[str]:
            green = self.green and loop == "ours"
            start = ["-m", "flexsc_loop", "threads"] if green else []
            return [
                str(python), *start, "-m", "pytest", *options, *files, f"--suite-loop={'green' if green else loop}",
            ]  # fmt: skip

        return Part(name, command, self.seconds, self.test_seconds, folder, self.environment)

    def prepare(self, checkout: Path | None) -> tuple[Path, Path]:
        """The folder with the tests, and a Python that has what they need."""
        base = ROOT / "build" / "suites" / f"{self.name}-{'checkout' if checkout else self.version}-python{VERSION}"
        venv, mark = base / "venv", base / "complete"
        brought = self.fetch is None and checkout is None
        folder = self.installed(venv) if brought else base / "source"
        needs = repr((str(checkout), self.take, self.requirements))
        if not mark.exists() or mark.read_text() != needs:
            shutil.rmtree(base, ignore_errors=True)
            base.mkdir(parents=True)
            try:
                if checkout is not None:
                    self.copy(checkout, folder)
                elif self.fetch is not None:
                    self.fetch(self, folder)
                self.make_environment(venv, base / "source", checkout)
            except (subprocess.CalledProcessError, FileNotFoundError) as error:
                said = getattr(error, "output", "")[-2000:]
                raise RuntimeError(f"{self.name}'s tests can't be had: {error}\n{said}") from error
            mark.write_text(needs)
        return folder, venv / "bin" / "python"

    def make_environment(self, venv: Path, source: Path, checkout: Path | None) -> None:
        run(sys.executable, "-m", "venv", venv)
        package = str(checkout) if checkout else f"{self.name}=={self.version}"
        needs = [one.format(source=source) for one in self.requirements] + ["greenlet"] * self.green
        run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", package, "pytest", *needs)

    def installed(self, venv: Path) -> Path:
        return venv / "lib" / f"python{VERSION}" / "site-packages"

    def copy(self, source: Path, folder: Path) -> None:
        """Take what the tests need, and not the package itself, which would hide the installed one."""
        for name in self.take:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (source / name).is_dir():
                shutil.copytree(source / name, target)
            else:
                shutil.copy(source / name, target)


def matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(Path(name).match(pattern) for pattern in patterns)]


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [*map(str, command)], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd
    )
    return done.stdout


def unpack(project: Project, archive: Path, folder: Path) -> None:
    """Take out of `archive`, which holds one folder, what the project's tests need."""
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        (source,) = Path(temporary).iterdir()
        project.copy(source, folder)


def from_checkout_only(project: Project, folder: Path) -> None:
    hint = f"--checkout {project.name}=FOLDER runs them"
    raise NotPublished(f"{project.name} publishes its tests in its repository only; {hint}")


def from_source_distribution(project: Project, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        run(sys.executable, "-m", "pip", "download", "--no-deps", f"--no-binary={project.name}",
            f"{project.name}=={project.version}", "--dest", temporary)  # fmt: skip
        (archive,) = Path(temporary).glob("*.tar.gz")
        unpack(project, archive, folder)
