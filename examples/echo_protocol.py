"""A TCP echo server as an asyncio protocol, on the FlexSC loop.

    python examples/echo_protocol.py --port 9000

Then try, in another terminal (what you type comes back):

    curl telnet://localhost:9000
"""

from __future__ import annotations

import argparse
import asyncio

import flexsc_loop


class Echo(asyncio.Protocol):
    """Writes back what it receives; stops reading while the other side does not read its replies."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def serve(host: str, port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, host, port)
    print("listening on", *(sock.getsockname()[:2] for sock in server.sockets))
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    args = parser.parse_args()
    try:
        flexsc_loop.run(serve(args.host, args.port))
    except KeyboardInterrupt:
        print("bye")


if __name__ == "__main__":
    main()
