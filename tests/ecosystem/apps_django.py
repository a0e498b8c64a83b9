"""A Django application for gunicorn: PostgreSQL by psycopg 3 or psycopg2, and MariaDB by PyMySQL.

DRIVER, POSTGRESQL_PORT and MARIADB_SOCKET say which and where.
"""

# ruff: noqa: E402
import os
import sys
import time

if os.environ["DRIVER"] == "psycopg2":
    sys.modules["psycopg"] = None  # Django takes it first, wherever it is installed

import pymysql

pymysql.version_info = (2, 2, 8, "final", 0)  # Django asks mysqlclient for a recent one
pymysql.install_as_MySQLdb()

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connections
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": "flexsc", "USER": "flexsc", "PASSWORD": "secret",
            "HOST": "127.0.0.1", "PORT": os.environ["POSTGRESQL_PORT"], "CONN_MAX_AGE": 60,
        },
        "maria": {
            "ENGINE": "django.db.backends.mysql", "NAME": "flexsc", "USER": "root",
            "HOST": os.environ["MARIADB_SOCKET"],
        },
    },
    LOGGING={
        "version": 1, "disable_existing_loggers": False, "handlers": {"stderr": {"class": "logging.StreamHandler"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY="secret",
)  # fmt: skip


def sleeping(request, alias, number):
    """What the database answers after a while, and which session it was."""
    sleep, session = ("pg_sleep", "pg_backend_pid") if alias == "default" else ("sleep", "connection_id")
    with connections[alias].cursor() as cursor:
        cursor.execute(f"select {session}(), %s, repeat('x', 20000), {sleep}(0.3)", (number,))
        row = cursor.fetchone()
    return JsonResponse({"session": row[0], "number": int(row[1]), "size": len(row[2])})


def driver(request):
    return HttpResponse(connections["default"].Database.__name__)


def stream(request):
    return StreamingHttpResponse((time.sleep(0.01), b"x" * 1000)[1] for _ in range(20))


urlpatterns = [
    path("sleeping/<str:alias>/<int:number>", sleeping),
    path("driver", driver),
    path("stream", stream),
    path("upload", lambda request: HttpResponse(str(len(request.body)))),
]
django.setup()
application = get_wsgi_application()
