"""The files that are read and written: made once in a folder on a disk, dropped from the page cache on demand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4 * KIB
CACHED = 64 * MIB
"""The part of the large file that the cached loads read."""
SMALL_FILES = 256
APPENDED = 64
WRITTEN = 8
DEFAULT_FOLDER = Path("/var/tmp/flexsc-files")


@dataclass(frozen=True)
class Place:
    """A folder with the files; `mib` is the large one's size."""

    folder: Path
    mib: int

    @property
    def large(self) -> Path:
        return self.folder / "large"

    @property
    def blocks(self) -> int:
        return self.mib * MIB // BLOCK

    @property
    def written_size(self) -> int:
        """Of each file that is written over and over: together half of the large one."""
        return self.mib * MIB // (2 * WRITTEN)

    def small(self, number: int) -> Path:
        return self.folder / f"small-{number}"

    def appended(self, number: int) -> Path:
        return self.folder / f"appended-{number}"

    def written(self, number: int) -> Path:
        return self.folder / f"written-{number}"

    def make(self) -> None:
        """Make what is not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fill(self.large, self.mib * MIB)
        for number in range(SMALL_FILES):
            fill(self.small(number), BLOCK)
        for number in range(WRITTEN):
            fill(self.written(number), self.written_size)
        for number in range(APPENDED):
            self.appended(number).touch()

    def warm(self) -> None:
        """Have in the page cache what the cached loads read."""
        with self.large.open("rb") as file:
            file.read(CACHED)
        for number in range(SMALL_FILES):
            self.small(number).read_bytes()

    def empty(self) -> None:
        """Empty the files to which is appended."""
        for number in range(APPENDED):
            os.truncate(self.appended(number), 0)


def fill(path: Path, size: int) -> None:
    """Have a file of random bytes of this size, on the disk."""
    if path.exists() and path.stat().st_size == size:
        return
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - start)))
        file.flush()
        os.fsync(file.fileno())


def drop(path: Path) -> None:
    """Have the next read of this file wait for the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
