"""aiomysql, unmodified, with a real MariaDB."""

import asyncio
import ssl

import pytest
from support import payload

from benchmarks.databases import DATABASE, PASSWORD, USER

aiomysql = pytest.importorskip("aiomysql")


@pytest.fixture
def connect(mariadb):
    def make(**more):
        options = {"host": "127.0.0.1", "port": mariadb.port, "connect_timeout": 20, **more}
        return aiomysql.connect(user=USER, password=PASSWORD, db=DATABASE, autocommit=True, **options)

    return make


async def test_rows(loop, connect):
    connection = await connect(charset="utf8mb4")
    try:
        async with connection.cursor() as cursor:
            await cursor.execute("select %s, %s + 1, %s", ("Größe 😀", 41, b"\0\xff"))
            assert await cursor.fetchone() == ("Größe 😀", 42, b"\0\xff")
            await cursor.execute("select seq, seq * seq from seq_1_to_20000")
            assert list(await cursor.fetchall()) == [(n, n * n) for n in range(1, 20001)]
            with pytest.raises(aiomysql.ProgrammingError):
                await cursor.execute("select * from nowhere")
            await cursor.execute("select 2")
            assert await cursor.fetchone() == (2,)
    finally:
        await connection.ensure_closed()


async def test_transactions_and_unbuffered_rows(loop, connect):
    connection = await connect()
    try:
        await connection.autocommit(False)
        async with connection.cursor(aiomysql.SSDictCursor) as cursor:
            await cursor.execute("create temporary table t (id int primary key, body blob) engine=innodb")
            await cursor.executemany("insert into t values (%s, %s)", [(n, payload(n)) for n in range(1, 500)])
            await connection.commit()
            await cursor.execute("delete from t")
            await connection.rollback()
            await cursor.execute("select id, body from t order by id")
            seen = [row async for row in cursor]
        assert seen == [{"id": n, "body": payload(n)} for n in range(1, 500)]
    finally:
        await connection.ensure_closed()


async def test_large_values(loop, connect):
    connection = await connect()
    try:
        async with connection.cursor() as cursor:
            for size in (16 * 1024, 256 * 1024 + 1, 3_000_000):
                data = payload(size)
                await cursor.execute("select %s", (data,))
                assert await cursor.fetchone() == (data,)
    finally:
        await connection.ensure_closed()


@pytest.mark.one_way
async def test_a_value_that_takes_two_packets(loop, connect):
    connection = await connect()
    try:
        async with connection.cursor() as cursor:
            await cursor.execute("select repeat('x', 17000000)")
            assert await cursor.fetchone() == ("x" * 17_000_000,)
    finally:
        await connection.ensure_closed()


async def test_a_pool_under_load(loop, mariadb):
    async with aiomysql.create_pool(
        host="127.0.0.1", port=mariadb.port, user=USER, password=PASSWORD, db=DATABASE, minsize=8, maxsize=8
    ) as pool:

        async def client(number):
            for i in range(20):
                async with pool.acquire() as connection, connection.cursor() as cursor:
                    await cursor.execute("select %s * 1000 + %s", (number, i))
                    assert await cursor.fetchone() == (number * 1000 + i,)

        await asyncio.gather(*(client(number) for number in range(32)))


async def test_a_query_that_is_given_up(loop, connect):
    connection = await connect()
    with pytest.raises(asyncio.TimeoutError):
        async with connection.cursor() as cursor:
            await asyncio.wait_for(cursor.execute("select sleep(60)"), 0.05)
    connection.close()
    again = await connect()
    try:
        async with again.cursor() as cursor:
            await cursor.execute("select 3")
            assert await cursor.fetchone() == (3,)
    finally:
        await again.ensure_closed()


@pytest.mark.one_way
async def test_wrong_password(loop, mariadb):
    with pytest.raises(aiomysql.OperationalError, match="Access denied"):
        await aiomysql.connect(host="127.0.0.1", port=mariadb.port, user=USER, password="wrong", db=DATABASE)


@pytest.mark.one_way
async def test_unix_socket(loop, connect, mariadb):
    connection = await connect(unix_socket=str(mariadb.socket))
    try:
        async with connection.cursor() as cursor:
            await cursor.execute("select %s", (payload(1_000_000),))
            assert await cursor.fetchone() == (payload(1_000_000),)
    finally:
        await connection.ensure_closed()


async def test_tls(loop, connect, authority):
    """aiomysql takes the socket of an open connection and makes a new one of it, with TLS."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    connection = await connect(ssl=context)
    try:
        async with connection.cursor() as cursor:
            await cursor.execute("show status like 'Ssl_cipher'")
            assert (await cursor.fetchone())[1]
            await cursor.execute("select %s", (payload(1_000_000),))
            assert await cursor.fetchone() == (payload(1_000_000),)
    finally:
        await connection.ensure_closed()
