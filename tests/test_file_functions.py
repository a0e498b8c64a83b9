"""`flexsc_loop.files`: what a function says of a file is so."""

from __future__ import annotations

import errno
import resource

import pytest

from flexsc_loop import files

LIMIT = 10_000


@pytest.fixture
def limited():
    """No file of this process gets larger than LIMIT."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [LIMIT + 1, 5 * LIMIT])
@pytest.mark.parametrize("write", ["write_bytes", "write_text"])
async def test_a_file_that_does_not_fit_is_an_error(loop, tmp_path, limited, write, size):
    """Though most of it has been written."""
    data = b"x" * size if write == "write_bytes" else "x" * size
    with pytest.raises(OSError) as caught:
        await getattr(files, write)(tmp_path / "file", data)
    assert caught.value.errno == errno.EFBIG
    assert await getattr(files, write)(tmp_path / "file", data[:LIMIT]) == LIMIT
