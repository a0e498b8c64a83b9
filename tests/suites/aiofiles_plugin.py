"""A pytest plugin: on this loop, aiofiles' `open`, temporary files and functions of `os` are this package's."""

from __future__ import annotations

import aiofiles
import aiofiles.os
import aiofiles.tempfile
import pytest

import flexsc_loop
from flexsc_loop import files


def pytest_configure(config: pytest.Config) -> None:
    if config.option.suite_loop == "ours":
        aiofiles.open = aiofiles.threadpool.open = flexsc_loop.open
        for theirs in (aiofiles.os, aiofiles.tempfile, aiofiles.os.path):
            for name in set(theirs.__all__) & set(files.__all__):
                setattr(theirs, name, getattr(files, name))
