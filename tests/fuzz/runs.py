"""Programs run in processes of their own, compared, made smaller, kept."""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .child import LIMIT
from .operations import Step
from .world import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"


class Child:
    """A process that runs programs; started anew when one has killed it."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.process: subprocess.Popen[str] | None = None

    def _start(self) -> subprocess.Popen[str]:
        self.errors = tempfile.TemporaryFile("w+")
        return subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.child", self.way],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def run(self, program: list[Step], expected: dict[str, Any] | None, patience: float) -> dict[str, Any]:
        """What came out; a crash or a hang is a complaint."""
        self.process = self.process or self._start()
        line = ""
        try:
            asked = {"program": program, "expected": expected, "patience": patience}
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
            if select.select([self.process.stdout], [], [], LIMIT)[0]:
                line = self.process.stdout.readline()
                ended = "crashes"
            else:
                ended = "hangs"
        except BrokenPipeError:
            ended = "crashes"
        if line:
            result: dict[str, Any] = json.loads(line)
            return result
        if ended == "crashes":
            self.process.wait()
        self.stop()
        self.errors.seek(0)
        said = self.errors.read()[-3000:].strip()
        last = said.rpartition("\n")[2]
        return {"views": [], "reports": [], "complaints": [f"{ended}: {last}; in full: {said}"]}

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None


class Comparison:
    """The standard loop beside one of ours."""

    def __init__(self, way: str) -> None:
        self.standard, self.ours = Child("stdlib"), Child(way)

    def complaints(self, program: list[Step], patience: float = PATIENCE) -> list[str]:
        expected = self.standard.run(program, None, patience)
        if any(one.startswith(("crashes", "hangs")) for one in expected["complaints"]):
            return [f"the standard loop {one}" for one in expected["complaints"]]
        complaints: list[str] = self.ours.run(program, expected, patience)["complaints"]
        return complaints

    def stop(self) -> None:
        self.standard.stop()
        self.ours.stop()


def sort_of(complaint: str) -> str:
    """What two complaints have in common that are about the same."""
    if complaint.startswith("step"):
        complaint = complaint.split(":", 1)[1].split("; before")[0]
    return re.sub(r"[\d.]+", "", complaint)[:120].strip()


def smaller(program: list[Step]) -> Iterator[list[Step]]:
    """Programs with something left out: things first, then big parts, single steps, single operations."""
    slots = {slot for step in program for _, slot, _ in step}
    for left_out in slots if len(slots) > 1 else ():
        yield [kept for step in program if (kept := [one for one in step if one[1] != left_out or one[0] == "turns"])]
    size = len(program) // 2
    while size:
        for start in range(0, len(program), size):
            yield program[:start] + program[start + size :]
        size //= 2
    for number, step in enumerate(program):
        for left_out in range(len(step) if len(step) > 1 else 0):
            yield [*program[:number], step[:left_out] + step[left_out + 1 :], *program[number + 1 :]]


def until_it_fails(program: list[Step], complaint: str) -> list[Step]:
    """The program up to the step that a complaint names."""
    named = re.match(r"step (\d+)", complaint)
    return program[: int(named[1]) + 1] if named else program


def shrink(program: list[Step], fails: Callable[[list[Step]], bool], budget: int = 80) -> list[Step]:
    """The smallest program found, within so many runs, that still fails."""
    shrunk = True
    while shrunk:
        shrunk = False
        for candidate in smaller(program):
            budget -= 1
            if budget < 0:
                return program
            if candidate and fails(candidate):
                program, shrunk = candidate, True
                break
    return program


def load(path: Path) -> list[Step]:
    program: list[Step] = json.loads(path.read_text())["program"]
    return program


def dump(path: Path, program: list[Step], **more: Any) -> None:
    """One step on each line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = ",\n".join("  " + json.dumps(step) for step in program)
    head = "".join(f'"{key}": {json.dumps(value)},\n' for key, value in more.items())
    path.write_text(f'{{\n{head}"program": [\n{steps}\n]\n}}\n')
