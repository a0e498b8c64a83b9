from typing import Any

from typing_extensions import disjoint_base

from flexsc_loop.transports.stream import StreamTransport
from flexsc_loop.turn.turn import Turn

@disjoint_base
class FileSend:
    async def run(self) -> int: ...

async def send_over_stream(
    turn: Turn, transport: StreamTransport, file: Any, offset: int, count: int | None
) -> int: ...
async def send_over_socket(turn: Turn, sock: Any, file: Any, offset: int, count: int | None) -> int: ...
