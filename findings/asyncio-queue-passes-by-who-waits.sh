#!/bin/sh
# asyncio, janus, culsans: who waits at a queue may wait for ever while others that come later go by, again and again.
#
# When an item comes, a queue wakes the one that has waited longest.  But the item stays in the queue until that one has
# its turn of the loop, and whoever calls get() before takes it; the one that was woken finds nothing, and waits anew.
# Tasks that go round with the loop come at the same moment each time: of two equal workers one has all the work and
# the other none, for as long as there is work, and a put() to a queue that is full waits until all of another
# producer's have gone through.  asyncio's documentation calls its Lock fair, and its Queue FIFO: the items are.  anyio's
# memory object streams hand an item to who waits.
#
# Seen with janus 2.0.0, culsans 0.11.0, anyio 4.16.0, uvloop 0.23.0 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18,
# x86-64, on 2026-11-30; room for one item; 5000 items for two workers that do `await sleep(0)` for each; and 5000 items of
# a producer that does `await sleep(0)` before each, while another one has one to put:
#
#   asyncio.Queue:           workers 5000 and 0 items, the other put() after all 5000
#   asyncio.Queue on uvloop: workers 5000 and 0 items, the other put() after all 5000
#   janus:                   workers 5000 and 0 items, the other put() after all 5000
#   culsans:                 workers 5000 and 0 items, the other put() after all 5000
#   anyio:                   workers 2500 and 2500 items, the other put() before the last
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    anyio==4.16.0 culsans==0.11.0 janus==2.0.0 uvloop==0.23.0

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import sys

import anyio
import culsans
import janus
import uvloop

COUNT = 5000


def of_asyncio():
    queue = asyncio.Queue(1)
    return queue.put, queue.get


def of_janus():
    queue = janus.Queue(1).async_q
    return queue.put, queue.get


def of_culsans():
    queue = culsans.Queue(1).async_q
    return queue.put, queue.get


def of_anyio():
    sending, receiving = anyio.create_memory_object_stream(1)
    return sending.send, receiving.receive


async def cancel(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def two_workers(put, get):
    counts = [0, 0]

    async def work(number):
        while True:
            await get()
            counts[number] += 1
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(work(number)) for number in range(2)]
    for item in range(COUNT):
        await put(item)
        await asyncio.sleep(0)
    await cancel(tasks)
    return f"workers {counts[0]} and {counts[1]} items"


async def two_producers(put, get):
    async def busy():
        for _ in range(COUNT):
            await asyncio.sleep(0)
            await put("busy")

    async def other():
        await asyncio.sleep(0.01)
        await put("other")

    tasks = [asyncio.create_task(busy()), asyncio.create_task(other())]
    before = 0
    while await get() == "busy":
        before += 1
    await cancel(tasks)
    return f"the other put() {f'after all {COUNT}' if before == COUNT else 'before the last'}"


async def main(make):
    return f"{await two_workers(*make())}, {await two_producers(*make())}"


as_described = True
starved = "workers 5000 and 0 items, the other put() after all 5000"
for name, new_loop, make, expected in (
    ("asyncio.Queue", asyncio.new_event_loop, of_asyncio, starved),
    ("asyncio.Queue on uvloop", uvloop.new_event_loop, of_asyncio, starved),
    ("janus", asyncio.new_event_loop, of_janus, starved),
    ("culsans", asyncio.new_event_loop, of_culsans, starved),
    ("anyio", asyncio.new_event_loop, of_anyio, "workers 2500 and 2500 items, the other put() before the last"),
):
    found = new_loop().run_until_complete(main(make))
    print(f"{name + ':':24} {found}")
    as_described &= found == expected
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
