#!/bin/sh
# aiostream: merge() with a source that always has an item gives nothing of the others, until that one is at its end.
#
# It iterates "all the sequences simultaneously" and forwards items "as soon as they're available", say its words.  When
# several have one, it takes that of the first source in the order of the arguments, and asks it again before it looks
# at the rest; that one has its next item by then.  Not only a generator that never waits does so, which stops any loop: one
# that gives way to the loop with each item, as a reader of data that is there should, has it the same.  A "stop", a
# heartbeat or a second connection is heard of when the first has nothing to say.  With the arguments in the other
# order all is well.  A queue without a limit that tasks put into takes turns.
#
# Seen with aiostream 0.8.1 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30; `busy` has
# items 0 to 9999 and gives way before each, `stop` has one after 10 ms, `a` and `b` give way before each of three:
#
#   merge(a, b):       a a a b b b
#   tasks and a queue: a b a b a b
#   merge(busy, stop): stop comes after 10000 items of busy
#   merge(stop, busy): stop comes before the last item of busy
#   tasks and a queue: stop comes before the last item of busy
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiostream==0.8.1

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import sys

from aiostream import stream


async def source(name, count):
    for _ in range(count):
        await asyncio.sleep(0)
        yield name


async def stop():
    await asyncio.sleep(0.01)
    yield "stop"


async def by_merge(*sources):
    async with stream.merge(*sources).stream() as merged:
        return [item async for item in merged]


async def by_queue(*sources):
    queue = asyncio.Queue()

    async def put(items):
        async for item in items:
            await queue.put(item)
        await queue.put(None)

    tasks = [asyncio.create_task(put(each)) for each in sources]
    found, left = [], len(tasks)
    while left:
        item = await queue.get()
        if item is None:
            left -= 1
        else:
            found.append(item)
    return found


def stopped(items):
    before = items.index("stop")
    return f"stop comes after {before} items of busy" if before == 10000 else "stop comes before the last item of busy"


async def main():
    found = {
        "merge(a, b)": " ".join(await by_merge(source("a", 3), source("b", 3))),
        "tasks and a queue": " ".join(await by_queue(source("a", 3), source("b", 3))),
        "merge(busy, stop)": stopped(await by_merge(source("busy", 10000), stop())),
        "merge(stop, busy)": stopped(await by_merge(stop(), source("busy", 10000))),
        "tasks and a queue ": stopped(await by_queue(source("busy", 10000), stop())),
    }
    for name, line in found.items():
        print(f"{name.strip() + ':':18} {line}")
    return list(found.values())


before = "stop comes before the last item of busy"
sys.exit(0 if asyncio.run(main()) == [
    "a a a b b b", "a b a b a b", "stop comes after 10000 items of busy", before, before,
] else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
