"""aiofiles' own tests, with this package's files in the place of aiofiles'; the standard loop has aiofiles itself."""

from __future__ import annotations

from tests.suites.projects import Project, from_source_distribution
from tests.suites.runs import Exclusion

INSIDE = "looks at Python's own file inside, a private attribute of aiofiles; these files have none"

EXCLUDED = (
    Exclusion("tests/threadpool/test_binary.py::test_simple_close_ctx_mgr*", INSIDE),
    Exclusion("tests/threadpool/test_text.py::test_simple_close[[]*", INSIDE),
    Exclusion("tests/threadpool/test_open.py::test_filetask_async_context_aexit", INSIDE),
    Exclusion("tests/threadpool/test_*.py::test_simple_detach", "detach() gives a file that these have not"),
    Exclusion(
        "tests/threadpool/test_concurrency.py::test_slow_file",
        "a slow function stands for the built-in open() in aiofiles' module; tests/test_file_kinds.py has a slow open",
    ),
)

SUITE = Project(
    name="aiofiles",
    version="25.1.0",
    fetch=from_source_distribution,
    requirements=("pytest-asyncio",),
    options=("-p", "suites.aiofiles_plugin"),
    quick=("test_*.py",),
    excluded=EXCLUDED,
)
