"""asyncpg, unmodified, with a real PostgreSQL."""

import asyncio
import datetime
import decimal
import ssl

import pytest
from support import payload

from benchmarks.databases import DATABASE, PASSWORD, USER

asyncpg = pytest.importorskip("asyncpg")


@pytest.fixture
def connect(postgresql):
    def make(**more):
        options = {"host": "127.0.0.1", "port": postgresql.port, "ssl": False, **more}
        return asyncpg.connect(user=USER, password=PASSWORD, database=DATABASE, timeout=20, **options)

    return make


async def test_rows(loop, connect):
    connection = await connect()
    try:
        assert await connection.fetchval("select 1") == 1
        at = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
        values = {"a": "Größe", "b": decimal.Decimal("12.340"), "c": at, "d": b"\0\xff", "e": [1, 2, 3]}
        row = await connection.fetchrow(
            "select $1::text as a, $2::numeric as b, $3::timestamptz as c, $4::bytea as d, $5::int[] as e",
            *values.values(),
        )
        assert dict(row) == values
        rows = await connection.fetch("select n, n * n as square from generate_series(1, 20000) as n")
        assert [tuple(row) for row in rows] == [(n, n * n) for n in range(1, 20001)]
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.fetchval("select 1 / 0")
        assert await connection.fetchval("select 2") == 2
    finally:
        await connection.close()


async def test_transactions_and_cursors(loop, connect):
    connection = await connect()
    try:
        await connection.execute("create temp table t (id int primary key, body bytea)")
        async with connection.transaction():
            await connection.executemany("insert into t values ($1, $2)", [(n, payload(n)) for n in range(1, 500)])
        with pytest.raises(asyncpg.UniqueViolationError):
            async with connection.transaction():
                await connection.execute("delete from t")
                await connection.executemany("insert into t values ($1, $2)", [(7, b""), (7, b"")])
        async with connection.transaction():
            seen = [tuple(row) async for row in connection.cursor("select id, body from t order by id", prefetch=50)]
        assert seen == [(n, payload(n)) for n in range(1, 500)]
    finally:
        await connection.close()


async def test_large_values(loop, connect):
    connection = await connect()
    try:
        for size in (16 * 1024, 256 * 1024 + 1, 5_000_000):
            data = payload(size)
            assert await connection.fetchval("select $1::bytea || $2::bytea", data, b"end") == data + b"end"
    finally:
        await connection.close()


async def test_copy(loop, connect):
    connection = await connect()
    try:
        await connection.execute("create temp table t (id int, name text)")
        records = [(n, f"name {n}") for n in range(50_000)]
        assert await connection.copy_records_to_table("t", records=records) == "COPY 50000"
        parts = []

        async def take(data):
            parts.append(data)

        assert await connection.copy_from_query("select * from t order by id", output=take) == "COPY 50000"
        assert b"".join(parts).decode().splitlines() == [f"{n}\t{name}" for n, name in records]
    finally:
        await connection.close()


async def test_a_pool_under_load(loop, postgresql):
    async with asyncpg.create_pool(
        host="127.0.0.1", port=postgresql.port, user=USER, password=PASSWORD, database=DATABASE, ssl=False,
        min_size=8, max_size=8, timeout=20,
    ) as pool:  # fmt: skip

        async def client(number):
            for i in range(40):
                assert await pool.fetchval("select $1::int * 1000 + $2::int", number, i) == number * 1000 + i

        await asyncio.gather(*(client(number) for number in range(32)))


async def test_notifications(loop, connect):
    listener, sender = await connect(), await connect()
    try:
        heard = asyncio.Queue()
        await listener.add_listener("news", lambda *message: heard.put_nowait(message[2:]))
        for number in range(100):
            await sender.execute(f"notify news, 'number {number}'")
        async with asyncio.timeout(20):
            assert [await heard.get() for _ in range(100)] == [("news", f"number {number}") for number in range(100)]
        await listener.reset()
    finally:
        await listener.close()
        await sender.close()


async def sleeping(watcher, pid):
    """Wait until that server process sleeps for a client."""
    state = "select state from pg_stat_activity where pid = $1 and query like '%pg_sleep%'"
    while await watcher.fetchval(state, pid) != "active":
        await asyncio.sleep(0.01)


async def test_a_query_that_is_given_up_is_cancelled_in_the_server(loop, connect):
    watcher, connection = await connect(), await connect()
    try:
        pid = connection.get_server_pid()
        sleeper = asyncio.ensure_future(connection.fetchval("select pg_sleep(60)"))
        await sleeping(watcher, pid)
        sleeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeper
        assert await connection.fetchval("select 'still of use'") == "still of use"
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetchval("select pg_sleep(60)", timeout=0.05)
        assert await connection.fetchval("select 3") == 3
    finally:
        await connection.close()
        await watcher.close()


async def test_the_server_ends_the_connection(loop, connect):
    watcher, connection = await connect(), await connect()
    try:
        query = asyncio.ensure_future(connection.fetchval("select pg_sleep(60)"))
        await sleeping(watcher, connection.get_server_pid())
        assert await watcher.fetchval("select pg_terminate_backend($1)", connection.get_server_pid())
        with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
            await query
        assert connection.is_closed()
    finally:
        await connection.close()
        await watcher.close()


@pytest.mark.one_way
async def test_wrong_password(loop, postgresql):
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host="127.0.0.1", port=postgresql.port, user=USER, password="wrong", database=DATABASE)


@pytest.mark.one_way
async def test_unix_socket(loop, connect, postgresql):
    connection = await connect(host=str(postgresql.folder))
    try:
        assert await connection.fetchval("select inet_client_addr()") is None
        assert await connection.fetchval("select $1::bytea", payload(1_000_000)) == payload(1_000_000)
    finally:
        await connection.close()


async def test_tls(loop, connect, authority):
    """asyncpg asks for TLS within a connection that it has opened: start_tls on our transport."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    connection = await connect(ssl=context)
    try:
        assert await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()") is True
        assert await connection.fetchval("select $1::bytea", payload(1_000_000)) == payload(1_000_000)
    finally:
        await connection.close()
