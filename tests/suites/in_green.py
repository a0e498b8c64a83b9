"""Tells which tests have run in a green thread."""

from __future__ import annotations

from flexsc_loop import threads


class Looks:
    """Has another count each time that it is looked at in a green thread."""

    looks = 0

    @property
    def made(self) -> int:
        self.looks += threads.current_thread() is not None
        return self.looks
