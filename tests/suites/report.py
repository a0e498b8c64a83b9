"""What comes out: tables, the tests that are worse with this loop, and all of it as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

from tests.suites.runs import END, Comparison, Exclusion

Found = dict[str, dict[str, dict[str, Comparison]]]
COLUMNS = ("tests", "excluded", "on our loop", "passed", "failed", "skipped", "theirs: passed", "failed", "skipped")


def row(tests: dict[str, Comparison]) -> list[int]:
    ours = Counter("failed" if one.ours.bad else one.ours.outcome for one in tests.values() if one.ours)
    theirs = Counter("failed" if one.theirs.bad else one.theirs.outcome for one in tests.values() if one.theirs)
    on_ours = sum(one.ours is not None and one.ours.loops > 0 for one in tests.values())
    left = [len(tests), ours["excluded"], on_ours]
    return left + [counts[key] for counts in (ours, theirs) for key in ("passed", "failed", "skipped")]


def table(parts: dict[str, dict[str, Comparison]]) -> str:
    rows = {name: row(tests) for name, tests in sorted(parts.items())}
    rows["all"] = [sum(values) for values in zip(*rows.values(), strict=True)]
    width = max(len(name) for name in rows)
    lines = [" " * width + "  " + "  ".join(COLUMNS)]
    for name, values in rows.items():
        cells = "  ".join(str(value).rjust(len(title)) for value, title in zip(values, COLUMNS, strict=True))
        lines.append(f"{name:<{width}}  {cells}")
    return "\n".join(lines)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""


def listing(found: Found, verbose: bool) -> str:
    """The tests that are worse with this loop, those that only sometimes are, and those that are better."""
    lines = []
    for way, parts in found.items():
        for tests in parts.values():
            for name, one in sorted(tests.items()):
                ours = one.ours.outcome if one.ours else "missing"
                theirs = one.theirs.outcome if one.theirs else "missing"
                detail = one.ours.detail if one.ours else ""
                if one.worse:
                    lines.append(f"WORSE     {way}: {name}: {ours}, theirs {theirs}: {last_line(detail)}")
                    if verbose:
                        lines.append(detail)
                elif not one.steady:
                    lines.append(f"unsteady  {way}: {name}: {ours}, but not when tried again: {last_line(detail)}")
                elif one.theirs is not None and one.theirs.bad and ours == "passed":
                    lines.append(f"better    {way}: {name}: passed, theirs {theirs}")
                elif one.theirs is not None and one.theirs.bad:
                    lines.append(f"both      {way}: {name}: {ours}, theirs {theirs}: {last_line(detail)}")
    return "\n".join(lines)


def excluded(found: Found, exclusions: list[Exclusion]) -> tuple[str, list[Exclusion]]:
    """The exclusions with how many tests each stands for, and those that stand for none."""
    names = {
        name
        for parts in found.values()
        for tests in parts.values()
        for name, one in tests.items()
        if one.ours is not None and one.ours.outcome == "excluded"
    }
    counts = {one.pattern: sum(fnmatchcase(name, one.pattern) for name in names) for one in exclusions}
    lines = [f"excluded  {counts[one.pattern]:4}  {one.pattern}: {one.reason}" for one in exclusions]
    return "\n".join(lines), [one for one in exclusions if not counts[one.pattern]]


def worse(found: Found) -> int:
    return sum(one.worse for parts in found.values() for tests in parts.values() for one in tests.values())


def broken(found: Found) -> list[str]:
    """Parts that say nothing: the standard loop's process did not end well, or no test has passed on this loop."""
    names = []
    for way, parts in found.items():
        for part, tests in parts.items():
            end = tests.get(END.format(part))
            if end is None or end.theirs is None or end.theirs.bad:
                names.append(f"{way}: {part}: the process with the standard loop did not end well")
        if not any(
            one.ours and one.ours.loops and one.ours.outcome == "passed" for t in parts.values() for one in t.values()
        ):
            names.append(f"{way}: no test has passed on this loop")
    return names


def as_json(found: Found, exclusions: list[Exclusion]) -> dict[str, Any]:
    """Everything: {"ways": {way: {part: {test: {"ours", "theirs", "steady", "worse"}}}}, "excluded": […]}."""
    return {
        "ways": {
            way: {
                part: {name: {**asdict(one), "worse": one.worse} for name, one in tests.items()}
                for part, tests in parts.items()
            }
            for way, parts in found.items()
        },
        "excluded": [asdict(one) for one in exclusions],
    }
