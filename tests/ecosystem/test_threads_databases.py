"""Database drivers and pools, unmodified, in green threads, with real servers: they wait side by side."""

import pytest
from programs import module
from support import run_python
from threads_support import SIDE_BY_SIDE, check, program

pytest.importorskip("greenlet")
pytestmark = [pytest.mark.ours, pytest.mark.one_way]

CONTENTS = (
    SIDE_BY_SIDE
    + """
def ask(connect, sleep, number):
    connection = connect()
    cursor = connection.cursor()
    cursor.execute(f"select %s, repeat('x', 100000), {sleep}", (number,))
    row = cursor.fetchone()
    cursor.close()
    connection.close()
    return int(row[0]), len(row[1])

def check_side_by_side(connect, sleep):
    begin = time.monotonic()
    rows = side_by_side(20, lambda i: ask(connect, sleep, i))
    assert sorted(rows) == [(i, 100_000) for i in range(20)]
    assert time.monotonic() - begin < 3.9, "one after the other"
"""
)


def dsn(server):
    return f"host=127.0.0.1 port={server.port} user=flexsc password=secret dbname=flexsc"


def test_psycopg(way, postgresql):
    pytest.importorskip("psycopg")
    check(way, CONTENTS + f"""
import psycopg

def main():
    connect = lambda: psycopg.connect({dsn(postgresql)!r})
    check_side_by_side(connect, "pg_sleep(0.2)")
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("create temporary table numbers (number int, text text)")
        with cursor.copy("copy numbers from stdin") as copy:
            for i in range(1000):
                copy.write_row((i, "x" * 100))
        cursor.execute("select sum(number), sum(length(text)) from numbers")
        assert cursor.fetchone() == (499_500, 100_000)
        with connection.pipeline():
            assert [connection.execute("select %s::int", (i,)).fetchone() for i in range(10)] == [
                (i,) for i in range(10)]
        cursor.execute("listen news")
        connection.commit()
        seen = Collected()
        listening = in_thread(lambda: seen([note.payload for note in connection.notifies(timeout=10, stop_after=1)]))
        with connect() as other:
            other.execute("notify news, 'hello'")
        listening.join()
        assert seen == [["hello"]]
        raised(psycopg.errors.QueryCanceled, cursor.execute, "set statement_timeout = 50; select pg_sleep(5)")
""")  # fmt: skip


def test_psycopg2(way, postgresql):
    pytest.importorskip("psycopg2")
    check(way, CONTENTS + f"""
import psycopg2, asyncio

def main():
    connect = lambda: psycopg2.connect({dsn(postgresql)!r})
    check_side_by_side(connect, "pg_sleep(0.2)")
    connection = connect()
    with connection, connection.cursor() as cursor:
        cursor.execute("create temporary table numbers (number int)")
        cursor.executemany("insert into numbers values (%s)", [(i,) for i in range(100)])
        cursor.execute("select sum(number) from numbers")
        assert cursor.fetchone() == (4950,)
        raised(psycopg2.errors.UndefinedTable, cursor.execute, "select * from nothing")
    connection.close()
    # In real threads, too.
    assert asyncio.run(asyncio.to_thread(ask, connect, "pg_sleep(0)", 7)) == (7, 100_000)
    raised(psycopg2.OperationalError, psycopg2.connect, "host=127.0.0.1 port=1 dbname=flexsc")
""")  # fmt: skip


def test_psycopg2_is_told_only_where_all_is_green():
    pytest.importorskip("psycopg2")
    end = run_python("""
        from flexsc_loop import threads
        threads.patch()
        import psycopg2.extensions
        assert psycopg2.extensions.get_wait_callback() is None
        threads.run(lambda: None)
        assert psycopg2.extensions.get_wait_callback().__module__ == "flexsc_loop.threads.drivers"
        psycopg2.extensions.set_wait_callback(print)
        threads.run(lambda: None)
        assert psycopg2.extensions.get_wait_callback() is print, "somebody's own"
    """)
    assert end.code == 0, end.err


def check_pool(way, url):
    pytest.importorskip("sqlalchemy")
    check(way, SIDE_BY_SIDE + f"""
import sqlalchemy
from sqlalchemy import orm

class Base(orm.DeclarativeBase):
    pass

class Item(Base):
    __tablename__ = "items"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sqlalchemy.String(50))

def main():
    engine = sqlalchemy.create_engine({url!r}, pool_size=5, max_overflow=3, pool_timeout=20)
    Base.metadata.create_all(engine)
    sessions = orm.scoped_session(orm.sessionmaker(engine))
    most = Collected()

    def add(i):
        session = sessions()
        session.add(Item(name=f"n{{i}}"))
        session.flush()
        most(engine.pool.checkedout())
        time.sleep(0.05)
        session.commit()
        sessions.remove()

    side_by_side(40, add)
    assert 2 <= max(most) <= 8, most
    with orm.Session(engine) as session:
        assert sorted(session.scalars(sqlalchemy.select(Item.name))) == sorted(f"n{{i}}" for i in range(40))
    none = sqlalchemy.create_engine(engine.url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    with none.connect():
        raised(sqlalchemy.exc.TimeoutError, none.connect)
    Base.metadata.drop_all(engine)
    engine.dispose()
    none.dispose()
""")  # fmt: skip


def test_sqlalchemy_and_postgresql(way, postgresql):
    pytest.importorskip("psycopg")
    check_pool(way, f"postgresql+psycopg://flexsc:secret@127.0.0.1:{postgresql.port}/flexsc")


def test_sqlalchemy_and_mariadb(way, mariadb):
    pytest.importorskip("pymysql")
    check_pool(way, f"mysql+pymysql://root@/flexsc?unix_socket={mariadb.socket}")


def test_celery(way, redis_server, start):
    pytest.importorskip("celery")
    url = f"redis://127.0.0.1:{redis_server.port}/3"
    worker = start(
        *module("flexsc_loop", "threads", "-m", "celery", "-A", "apps_celery", "worker", "-P", "threads", "-c", 10,
                "--without-mingle", "--without-gossip", "-l", "INFO"),
        env={"REDIS_URL": url, "C_FORCE_ROOT": "1"},
    )  # fmt: skip
    worker.wait_for("ready.")
    end = program(way, f"""
        os.environ["REDIS_URL"] = {url!r}
        sys.path.insert(0, {__file__.rpartition("/")[0]!r})
        import apps_celery

        def main():
            results = [apps_celery.double.delay(i) for i in range(10)]
            assert [result.get(timeout=20)[0] for result in results] == [2 * i for i in range(10)]
            sys.stdout.write(str({{result.get()[1] for result in results}}))
            raised(ZeroDivisionError, apps_celery.fail.delay().get, 20)

        threads.run(main)
    """)  # fmt: skip
    assert (end.code, end.out) == (0, "{True}"), (end, worker.text())
    assert worker.stop() == 0, worker.text()
