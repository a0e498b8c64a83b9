"""aiofiles and aiosqlite, unmodified: what blocks goes to threads and comes back."""

import asyncio

import pytest
from support import payload

pytestmark = pytest.mark.one_way


async def test_aiofiles(loop, tmp_path):
    aiofiles = pytest.importorskip("aiofiles")
    pytest.importorskip("aiofiles.os")

    async def one(number):
        path = tmp_path / f"file {number}"
        data = payload(100_000, number)
        async with aiofiles.open(path, "wb") as file:
            for at in range(0, len(data), 30_000):
                await file.write(data[at : at + 30_000])
        async with aiofiles.open(path, "rb") as file:
            assert await file.read() == data
            await file.seek(5)
            assert await file.read(10) == data[5:15]
        assert (await aiofiles.os.stat(path)).st_size == 100_000
        await aiofiles.os.remove(path)

    await asyncio.gather(*(one(number) for number in range(50)))
    assert await aiofiles.os.listdir(tmp_path) == []
    async with aiofiles.open(tmp_path / "lines", "w", encoding="utf-8") as file:
        await file.writelines(f"Größe {number}\n" for number in range(1000))
    async with aiofiles.open(tmp_path / "lines", encoding="utf-8") as file:
        assert [line async for line in file] == [f"Größe {number}\n" for number in range(1000)]
    with pytest.raises(FileNotFoundError):
        async with aiofiles.open(tmp_path / "nowhere"):
            pass
    async with aiofiles.tempfile.TemporaryDirectory() as folder:
        assert await aiofiles.os.path.isdir(folder)
    assert not await aiofiles.os.path.exists(folder)


async def test_aiosqlite(loop, tmp_path):
    aiosqlite = pytest.importorskip("aiosqlite")
    async with aiosqlite.connect(tmp_path / "base") as base:
        await base.execute("create table t (id integer primary key, body blob)")
        await base.executemany("insert into t values (?, ?)", [(n, payload(n)) for n in range(1, 1000)])
        await base.commit()
        async with base.execute("select id, body from t order by id") as cursor:
            assert [tuple(row) async for row in cursor] == [(n, payload(n)) for n in range(1, 1000)]
        with pytest.raises(aiosqlite.IntegrityError):
            await base.execute("insert into t values (1, 'twice')")
        await base.rollback()

        async def count(limit):
            async with base.execute("select count(*) from t where id <= ?", (limit,)) as cursor:
                return (await cursor.fetchone())[0]

        assert await asyncio.gather(*(count(n) for n in range(100))) == list(range(100))
    async with aiosqlite.connect(tmp_path / "base") as base, base.execute("select sum(id) from t") as cursor:
        assert await cursor.fetchone() == (sum(range(1000)),)
