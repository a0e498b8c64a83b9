"""redis-py's asyncio client, unmodified, with a real Redis."""

import asyncio

import pytest
from support import digest, payload

redis = pytest.importorskip("redis.asyncio")


@pytest.fixture
def client(redis_server):
    return lambda **more: redis.Redis(host="127.0.0.1", port=redis_server.port, socket_timeout=20, **more)


async def test_values(loop, client):
    async with client() as r:
        assert await r.ping()
        await r.set("name", "Größe")
        assert (await r.get("name")).decode() == "Größe"
        assert await r.get("nothing") is None
        for size in (1, 16 * 1024 + 1, 256 * 1024 + 1, 8_000_000):
            await r.set("large", payload(size))
            assert digest(await r.get("large")) == digest(payload(size))
        await r.hset("hash", mapping={"a": 1, "b": "two"})
        assert await r.hgetall("hash") == {b"a": b"1", b"b": b"two"}
        await r.set("text", "no number")
        with pytest.raises(redis.RedisError, match="not an integer"):
            await r.incr("text")
        await r.flushall()


async def test_pipelines(loop, client):
    async with client() as r:
        async with r.pipeline(transaction=True) as pipe:
            for number in range(5000):
                pipe.set(f"key {number}", number)
                pipe.get(f"key {number}")
            answers = await pipe.execute()
        assert answers == [value for number in range(5000) for value in (True, str(number).encode())]
        await r.flushall()


async def test_many_clients(loop, client):
    async with client(max_connections=16) as r:
        limit = asyncio.Semaphore(16)

        async def count(number):
            for _ in range(20):
                async with limit:
                    await r.incrby("counter", number)

        await asyncio.gather(*(count(number) for number in range(64)))
        assert int(await r.get("counter")) == 20 * sum(range(64))
        await r.flushall()


async def test_publish_and_subscribe(loop, client):
    async with client() as sender, client() as receiver, receiver.pubsub() as channel:
        await channel.psubscribe("news.*")
        assert (await channel.get_message(timeout=20))["type"] == "psubscribe"
        for number in range(200):
            assert await sender.publish(f"news.{number % 3}", payload(1000, number)) == 1
        for number in range(200):
            message = await channel.get_message(timeout=20)
            assert (message["channel"], message["data"]) == (f"news.{number % 3}".encode(), payload(1000, number))


async def test_a_call_that_waits_is_given_up(loop, client):
    async with client() as r, client() as watcher:
        waiting = asyncio.ensure_future(r.blpop(["empty"], timeout=60))
        await blocked(watcher, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await blocked(watcher, 0)
        await watcher.rpush("empty", "here")
        assert await r.blpop(["empty"], timeout=20) == (b"empty", b"here")


async def blocked(watcher, count):
    """Wait until the server says that so many clients wait."""
    async with asyncio.timeout(20):
        while (await watcher.info("clients"))["blocked_clients"] != count:
            await asyncio.sleep(0.005)


@pytest.mark.one_way
async def test_unix_socket(loop, redis_server):
    async with redis.Redis(unix_socket_path=str(redis_server.socket)) as r:
        await r.set("large", payload(1_000_000))
        assert await r.get("large") == payload(1_000_000)
        await r.flushall()
