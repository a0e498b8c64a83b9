"""A pytest plugin: PyMySQL's tests find a MariaDB, and the two databases in it that they expect."""

from __future__ import annotations

import contextlib

import pymysql
import pytest
from pymysql.tests import base

from benchmarks import databases

FIRST = (
    "CREATE DATABASE test1 DEFAULT CHARACTER SET utf8mb4",
    "CREATE DATABASE test2 DEFAULT CHARACTER SET utf8mb4",
    "CREATE USER test2@'%' IDENTIFIED BY 'some password'",
    "GRANT ALL ON test2.* TO test2@'%'",
)
running = contextlib.ExitStack()


def pytest_configure() -> None:
    server = running.enter_context(databases.mariadb())
    root = {"host": "localhost", "unix_socket": str(server.socket), "user": "root", "password": ""}
    with pymysql.connect(**root) as connection, connection.cursor() as cursor:
        for statement in FIRST:
            cursor.execute(statement)
    base.PyMySQLTestCase.databases = [
        {**root, "database": "test1", "use_unicode": True, "local_infile": True},
        {"host": "127.0.0.1", "port": server.port, "user": "test2", "password": "some password", "database": "test2"},
    ]


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    running.close()
