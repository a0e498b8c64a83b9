"""amqtt's own tests.  No distribution of it has them: they run from a checkout of its repository only."""

from __future__ import annotations

from tests.suites.projects import Project, from_checkout_only
from tests.suites.runs import Exclusion

EXCLUDED: tuple[Exclusion, ...] = ()

SUITE = Project(
    name="amqtt",
    version="0.11.4",
    fetch=from_checkout_only,
    requirements=("aiosqlite", "aiohttp", "argon2-cffi", "greenlet", "hypothesis", "mergedeep", "jsonschema",
                  "paho-mqtt", "psutil", "pyhamcrest", "pyjwt", "pyopenssl", "pytest-asyncio", "sqlalchemy[asyncio]"),
    quick=("test_broker.py", "test_client.py"),
    excluded=EXCLUDED,
)  # fmt: skip
