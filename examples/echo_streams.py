"""A TCP echo server on asyncio's streams, on the FlexSC loop.

    python examples/echo_streams.py --port 9001

Then try, in another terminal (what you type comes back):

    curl telnet://localhost:9001
"""

from __future__ import annotations

import argparse
import asyncio

import flexsc_loop


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError as error:
        print("connection lost:", error)
    finally:
        writer.close()


async def serve(host: str, port: int) -> None:
    server = await asyncio.start_server(echo, host, port)
    print("listening on", *(sock.getsockname()[:2] for sock in server.sockets))
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001)
    args = parser.parse_args()
    # With a policy instead: asyncio.set_event_loop_policy(flexsc_loop.FlexSCPolicy()), then asyncio.run(serve(…)).
    try:
        with asyncio.Runner(loop_factory=flexsc_loop.new_event_loop) as runner:
            runner.run(serve(args.host, args.port))
    except KeyboardInterrupt:
        print("bye")


if __name__ == "__main__":
    main()
