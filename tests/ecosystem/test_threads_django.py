"""Django under gunicorn with our worker for WSGI applications, with databases: each request is a green thread."""

import time

import pytest
from programs import fetch, fetch_json, in_threads
from support import payload

for package in ("gunicorn", "greenlet", "django", "pymysql"):
    pytest.importorskip(package)

pytestmark = [pytest.mark.ours, pytest.mark.one_way]

CROWD = 20


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_django(gunicorn, postgresql, mariadb, driver):
    pytest.importorskip(driver)
    program, port = gunicorn(
        app="apps_django:application",
        env={"DRIVER": driver, "POSTGRESQL_PORT": str(postgresql.port), "MARIADB_SOCKET": str(mariadb.socket)},
    )
    assert fetch(port, "/driver").decode() == driver
    begin = time.monotonic()
    for alias in ("default", "maria"):
        answers = in_threads(CROWD, lambda i, alias=alias: fetch_json(port, f"/sleeping/{alias}/{i}"))
        assert sorted(answer["number"] for answer in answers) == list(range(CROWD)), program.text()
        assert {answer["size"] for answer in answers} == {20_000}
        assert len({answer["session"] for answer in answers}) == CROWD, "a session that two requests have used"
    assert time.monotonic() - begin < 2 * CROWD * 0.3, "one after the other"
    assert fetch(port, "/stream") == b"x" * 20_000
    assert fetch(port, "/upload", method="POST", body=payload(1_000_000)) == b"1000000"
    assert program.stop() == 0
    assert "Traceback" not in program.text(), program.text()
