"""A pytest plugin: whoever asks uvloop for a loop gets the one that asyncio makes, which may be ours."""

from __future__ import annotations

import asyncio

import uvloop


def pytest_configure() -> None:
    uvloop.new_event_loop = lambda: asyncio.new_event_loop()
    uvloop.EventLoopPolicy = asyncio.DefaultEventLoopPolicy
