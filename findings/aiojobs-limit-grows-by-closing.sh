#!/bin/sh
# aiojobs: to close a job that waits for its turn starts the next one, over the scheduler's limit, one more each time.
#
# Scheduler(limit=1) runs one job, and keeps what is spawned meanwhile.  close() of one that has not begun takes it from the
# jobs at once, but leaves it in the queue; the active ones are counted as the difference of the two, one too few, and the
# place that seems free goes to the next.  So each job that is withdrawn while it waits puts one more at work at what the
# limit protects, and active_count goes on to say 1.  With wait(timeout=...) of a job that waits it is the job itself: when
# the time has run out, InvalidStateError is raised where TimeoutError is due, and the job, which should have been closed,
# runs.
#
# Seen with aiojobs 1.4.0 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30; limit is 1:
#
#   ten jobs, 0 to 9:      running 0, active_count 1
#   8 is closed:           running 0 1, active_count 1
#   6 is closed:           running 0 1 2, active_count 1
#   ten jobs, 0 is closed: running 1, active_count 1
#   ten jobs, 0 to 9:      running 0, active_count 1
#   8.wait(timeout=0.1):   InvalidStateError, running 0 8, active_count 1
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiojobs==1.4.0

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import sys

import aiojobs

running = set()


async def work(number):
    running.add(number)
    try:
        await asyncio.sleep(60)
    finally:
        running.discard(number)


async def seen(text, scheduler, error=None):
    await asyncio.sleep(0.1)
    line = f"running {' '.join(map(str, sorted(running)))}, active_count {scheduler.active_count}"
    if error:
        line = f"{type(error).__name__}, {line}"
    print(f"{text + ':':22} {line}")
    return line


async def ten_jobs():
    scheduler = aiojobs.Scheduler(limit=1)
    return scheduler, [await scheduler.spawn(work(number)) for number in range(10)]


async def main():
    found = []
    scheduler, jobs = await ten_jobs()
    found.append(await seen("ten jobs, 0 to 9", scheduler))
    for number in 8, 6:
        await jobs[number].close()
        found.append(await seen(f"{number} is closed", scheduler))
    await scheduler.close()

    scheduler, jobs = await ten_jobs()
    await asyncio.sleep(0.1)
    await jobs[0].close()
    found.append(await seen("ten jobs, 0 is closed", scheduler))
    await scheduler.close()

    scheduler, jobs = await ten_jobs()
    found.append(await seen("ten jobs, 0 to 9", scheduler))
    try:
        await jobs[8].wait(timeout=0.1)
    except Exception as error:
        found.append(await seen("8.wait(timeout=0.1)", scheduler, error))
    await scheduler.close()
    return found


sys.exit(0 if asyncio.run(main()) == [
    "running 0, active_count 1", "running 0 1, active_count 1", "running 0 1 2, active_count 1",
    "running 1, active_count 1", "running 0, active_count 1", "InvalidStateError, running 0 8, active_count 1",
] else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
