"""The table of operations, and programs made of them by chance.

An operation is a method of a thing with `@operation`; what opens a thing is a class method with `@opening`.  Keyword
arguments of the decorators name the values among which a program chooses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

#: One operation of a program: name, number of the thing, arguments.
Step = list[tuple[str, int, dict[str, Any]]]

#: Sizes of writes: those with which nothing fills up, and one that fills everything.
SMALL = (1, 10, 100, 700, 2000)
LARGE = 3_000_000


@dataclass(frozen=True)
class Operation:
    """One kind of operation: how it is called, with what, and how often it is chosen."""

    name: str
    kind: str
    call: str
    choices: dict[str, Sequence[Any]]
    weight: int
    opens: bool

    def choose(self, chance: random.Random) -> dict[str, Any]:
        return {name: chance.choice(values) for name, values in self.choices.items()}


@dataclass
class Kind:
    """A kind of things."""

    thing: type
    weight: int
    operations: list[Operation] = field(default_factory=list)


KINDS: dict[str, Kind] = {}
TABLE: dict[str, Operation] = {}


def operation(*, weight: int = 4, **choices: Sequence[Any]) -> Callable[[Any], Any]:
    """Marks a method as an operation."""

    def mark(method: Any) -> Any:
        method.operation = weight, choices, False
        return method

    return mark


def opening(*, weight: int = 4, **choices: Sequence[Any]) -> Callable[[Any], Any]:
    """Marks a class method `(world, slot, **arguments)` as what makes a thing."""

    def mark(method: Any) -> Any:
        method.operation = weight, choices, True
        return classmethod(method)

    return mark


def kind(name: str, *, weight: int = 4) -> Callable[[type], type]:
    """Enters a class of things and its operations in the table."""

    def enter(thing: type) -> type:
        KINDS[name] = Kind(thing, weight)
        for call in dir(thing):
            method = getattr(thing, call)
            if marked := getattr(method, "operation", None):
                of_it = Operation(f"{name}.{call}", name, call, marked[1], marked[0], marked[2])
                KINDS[name].operations.append(of_it)
                TABLE[of_it.name] = of_it
        return thing

    return enter


def leave_out(names: Sequence[str]) -> None:
    """Make no programs with these operations (`stream.close`, or `close` of every kind)."""
    for name, one in list(KINDS.items()):
        one.operations = [of_it for of_it in one.operations if not {of_it.name, of_it.call} & set(names)]
        if {of_it.opens for of_it in one.operations} != {True, False}:
            del KINDS[name]


def keep(names: Sequence[str]) -> None:
    """Make programs with these kinds only (`tls`); with all if there are none."""
    for name in [name for name in KINDS if names and name not in names]:
        del KINDS[name]


def pick(chance: random.Random, found: Sequence[Any]) -> Any:
    return chance.choices(found, [one.weight for one in found])[0]


def program(seed: int, length: int = 14) -> list[Step]:
    """A program of about so many steps.  Each one uses some kinds and some of their operations only: so that what is
    rare among all of them is frequent in some.
    """
    chance = random.Random(seed)
    names = list(KINDS)
    chosen = set(chance.choices(names, [KINDS[name].weight for name in names], k=chance.choice([1, 1, 2, 3])))
    openings, rest = [], {}
    for name in sorted(chosen):
        openings += [one for one in KINDS[name].operations if one.opens]
        rest[name] = [one for one in KINDS[name].operations if not one.opens and chance.random() < 0.75]
        if not rest[name]:
            rest[name] = [one for one in KINDS[name].operations if not one.opens]
    things: list[str] = []

    def one(slot: int | None) -> tuple[str, int, dict[str, Any]]:
        if not things or (slot is None and len(things) < 5 and chance.random() < 0.5 / len(things)):
            made = pick(chance, openings)
            things.append(made.kind)
            return made.name, len(things) - 1, made.choose(chance)
        slot = chance.randrange(len(things)) if slot is None else slot
        made = pick(chance, rest[things[slot]])
        return made.name, slot, made.choose(chance)

    steps: list[Step] = []
    for _ in range(chance.randrange(length // 3, length * 2)):
        step = [one(None)]
        while chance.random() < 0.3 and len(step) < 6:
            if chance.random() < 0.4:
                step.append(("turns", 0, {"count": chance.choice([1, 1, 2, 3, 5])}))
            step.append(one(step[0][1] if chance.random() < 0.8 else None))
        steps.append(step)
    return steps
