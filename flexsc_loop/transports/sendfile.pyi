from typing import Any

from flexsc_loop.transports.stream import StreamTransport
from flexsc_loop.turn.turn import Turn

async def send_over_stream(turn: Turn, transport: StreamTransport, file: Any, offset: int, count: int | None) -> int: ...
async def send_over_socket(turn: Turn, sock: Any, file: Any, offset: int, count: int | None) -> int: ...
