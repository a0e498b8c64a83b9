"""An aiohttp application whose connections are aiofastnet's, as aiohttp 3.15 has it: `port [certificate key]`."""

import asyncio
import signal
import ssl
import sys

import aiofastnet
from aiohttp import web
from facts import facts
from support import digest, payload

import flexsc_loop


async def tell(request: web.Request) -> web.Response:
    return web.json_response(facts() | {"transport": type(request.transport).__module__})


async def take(request: web.Request) -> web.Response:
    return web.Response(text=digest(await request.read()))


async def give(request: web.Request) -> web.Response:
    return web.Response(body=payload(int(request.query["size"])))


async def main() -> None:
    app = web.Application(client_max_size=1 << 24)
    app.add_routes([web.get("/facts", tell), web.post("/digest", take), web.get("/payload", give)])
    runner = web.AppRunner(app)
    await runner.setup()
    context = None
    if sys.argv[2:]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*sys.argv[2:])
    loop = asyncio.get_running_loop()
    server = await aiofastnet.create_server(loop, runner.server, "127.0.0.1", int(sys.argv[1]), ssl=context)
    asked_to_end = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, asked_to_end.set)
    print("serving", flush=True)
    await asked_to_end.wait()
    server.close()
    await runner.cleanup()
    await server.wait_closed()


flexsc_loop.run(main())
