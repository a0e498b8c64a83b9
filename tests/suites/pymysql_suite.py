"""PyMySQL's own tests, in a green thread and in a plain one, with a MariaDB of their own."""

from __future__ import annotations

from tests.suites.debian import from_debian
from tests.suites.projects import Project

SUITE = Project(
    name="pymysql",
    version="1.1.1",
    fetch=from_debian(2),
    # All of it is Python, and its tests are a part of it.
    take=("pymysql",),
    tests=("pymysql/tests/test_*.py", "pymysql/tests/thirdparty/*/test_*.py"),
    requirements=("cryptography", "PyNaCl", "trustme"),
    options=("-p", "suites.pymysql_plugin"),
    quick=("test_basic.py",),
    excluded=(),
    green=True,
)
