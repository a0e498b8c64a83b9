"""A pytest plugin: tornado's tests fail when something is logged; its runner silences what servers say of requests."""

from __future__ import annotations

import logging


def pytest_configure() -> None:
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
