"""One contestant, in a process of its own: opens its files, then makes a window of a load for each line that it reads.

{"load": "cached", "seconds": 0.2} is answered by {"rate": 400000.0, "cpu_us": 2.5}, or by {"reason": "…"}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.files.apis import APIS, Lacking
from benchmarks.files.loads import LOADS, check, window
from benchmarks.files.place import Place
from benchmarks.loops import LoopChoice


def reason(error: BaseException) -> dict[str, str]:
    known = isinstance(error, BenchmarkError | Lacking)
    return {"reason": str(error) if known else f"{type(error).__name__}: {error}"}


def answer(line: str, runner: asyncio.Runner, api: Any, place: Place) -> dict[str, Any]:
    asked = json.loads(line)
    try:
        return runner.run(window(LOADS[asked["load"]], api, place, asked["seconds"])).as_dict()
    except Exception as error:  # noqa: BLE001 - whatever a library can't do is its row's reason for "n/a"
        return reason(error)


def main() -> None:
    name, loop, folder, mib = sys.argv[1:]
    place = Place(Path(folder), int(mib))
    try:
        with asyncio.Runner(loop_factory=LoopChoice.parse(loop).factory()) as runner:
            api = APIS[name](place)
            runner.run(api.open())
            runner.run(check(api, place))
            print("{}", flush=True)
            for line in sys.stdin:
                print(json.dumps(answer(line, runner, api, place)), flush=True)
    except Exception as error:  # noqa: BLE001
        print(json.dumps(reason(error)), flush=True)


if __name__ == "__main__":
    main()
