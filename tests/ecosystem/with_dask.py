"""Computes on a cluster of processes.  Its workers import this program anew, and so install the loop, too."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import flexsc_loop

flexsc_loop.install()


def square(number: int) -> int:
    return number * number


def total(numbers: list[int]) -> int:
    return sum(numbers)


async def on_the_worker(dask_worker: Any) -> tuple[str, int]:
    loop = asyncio.get_running_loop()
    return f"{type(loop).__module__}.{type(loop).__qualname__}", os.getpid()


def main() -> None:
    import dask
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster, timeout="120s") as client,
    ):
        squares = client.map(square, range(1000))
        lazy = dask.delayed(total)([dask.delayed(square)(number) for number in range(100)])
        loop = client.loop.asyncio_loop
        print(
            json.dumps(
                {
                    "sum": client.submit(total, squares).result(timeout=120),
                    "lazy": lazy.compute(),
                    "large": len(client.submit(bytes, 20_000_000).result(timeout=120)),
                    "client": f"{type(loop).__module__}.{type(loop).__qualname__}",
                    "workers": list(client.run(on_the_worker).values()),
                    "pid": os.getpid(),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
