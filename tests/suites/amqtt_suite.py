"""amqtt's own tests.  No distribution of it has them: they run from a checkout of its repository only."""

from __future__ import annotations

from tests.suites.projects import Project, from_checkout_only
from tests.suites.runs import Exclusion

EXCLUDED: tuple[Exclusion, ...] = ()

SUITE = Project(
    name="amqtt",
    version="0.11.4",
    fetch=from_checkout_only,
    take=("tests", "samples", "pyproject.toml"),
    # But those of LDAP, which need a server in a container.
    tests=("tests/test_*.py", "tests/mqtt/**/test_*.py", "tests/plugins/test_*.py", "tests/contrib/test_[!l]*.py"),
    requirements=("aiosqlite", "aiohttp", "argon2-cffi", "django", "greenlet", "hypothesis", "mergedeep", "jsonschema",
                  "paho-mqtt", "psutil", "pwdlib[argon2,bcrypt]", "pyhamcrest", "pyjwt", "pyopenssl", "pytest-asyncio",
                  "sqlalchemy[asyncio]"),
    quick=("test_broker.py", "test_client.py"),
    excluded=EXCLUDED,
)  # fmt: skip
