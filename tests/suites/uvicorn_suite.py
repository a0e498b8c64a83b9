"""uvicorn's own tests: `--loop asyncio` makes this loop, and uvloop is not installed."""

from __future__ import annotations

from tests.suites.projects import Project, from_source_distribution
from tests.suites.runs import Exclusion

EXCLUDED = (
    Exclusion("tests/test_auto_detection.py::test_loop_auto", "asks for a class of asyncio's own module"),
    Exclusion("tests/test_config.py::test_get_loop_factory?asyncio-*", "names a class of asyncio's own"),
)

SUITE = Project(
    name="uvicorn",
    version="0.54.0",
    fetch=from_source_distribution,
    # All but its benchmarks.
    tests=("tests/test_*.py", "tests/[!b]*/test_*.py"),
    requirements=("a2wsgi", "cryptography", "httptools", "httpx2", "python-dotenv", "pytest-mock", "pyyaml",
                  "pytest-xdist", "trustme", "watchfiles", "websockets", "wsproto", "zttp"),
    groups={"protocols": ("protocols/*.py",)},
    quick=("test_server.py", "test_main.py", "test_ssl.py", "test_lifespan.py", "protocols/test_websocket.py"),
    excluded=EXCLUDED,
)  # fmt: skip
