"""pytest-asyncio runs coroutine tests on the loop by its `event_loop_policy` fixture."""

import asyncio
import warnings

import pytest


@pytest.fixture(params=[None])
def event_loop_policy(request):
    if request.config.getoption("stdlib"):
        return asyncio.DefaultEventLoopPolicy()
    import flexsc_loop

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return flexsc_loop.FlexSCPolicy()


@pytest.mark.asyncio
async def test_runs_on_the_loop(request):
    loop = asyncio.get_running_loop()
    module = "asyncio" if request.config.getoption("stdlib") else "flexsc_loop"
    assert type(loop).__module__.split(".")[0] == module
    assert await asyncio.sleep(0.001, 5) == 5


@pytest.mark.asyncio
async def test_streams():
    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader.read() == b"hello\n"
        writer.close()
        await writer.wait_closed()
