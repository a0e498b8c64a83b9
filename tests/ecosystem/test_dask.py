"""dask.distributed, unmodified, with `install()`."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed")

pytestmark = [pytest.mark.ours, pytest.mark.one_way]

#: For what hangs.  Three processes import all of distributed, which alone costs 15 s of CPU time.
LIMIT_S = 170


@pytest.mark.timeout(LIMIT_S + 10)
def test_a_cluster_of_processes(start):
    program = start(sys.executable, str(Path(__file__).with_name("with_dask.py")))
    assert program.end(LIMIT_S) == 0, program.text()
    (line,) = [line for line in program.text().splitlines() if line.startswith("{")]
    said = json.loads(line)
    assert said["sum"] == sum(number * number for number in range(1000))
    assert said["lazy"] == sum(number * number for number in range(100))
    assert said["large"] == 20_000_000
    assert said["client"] == "flexsc_loop.loop.Loop"
    assert [loop for loop, _ in said["workers"]] == ["flexsc_loop.loop.Loop"] * 2
    assert len({said["pid"], *(pid for _, pid in said["workers"])}) == 3
    # No word about tracebacks: a heartbeat that is under way at the end is one, with asyncio's own loop too.
