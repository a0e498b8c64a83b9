"""Drives a Jupyter kernel, started as its kernelspec says, from outside: prints what each cell has answered, as JSON.

Arguments: the command that starts the kernel, without the file of its connection.
"""

import json
import sys

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

CELLS = (
    "import asyncio, flexsc_loop; isinstance(asyncio.get_running_loop(), flexsc_loop.Loop)",
    "asyncio.get_running_loop().choice.kind",
    """
async def answer(reader, writer):
    writer.write(await reader.readline())
    writer.close()

server = await asyncio.start_server(answer, "127.0.0.1", 0)
reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
writer.write(b"hello\\n")
print((await reader.read()).decode().strip())
writer.close()
server.close()
""",
    "await asyncio.create_task(asyncio.sleep(0.01, 6))",
    "await asyncio.to_thread(flexsc_loop.run, asyncio.sleep(0, 7))",
    "coroutine = asyncio.sleep(0)\ntry:\n    flexsc_loop.run(coroutine)\nfinally:\n    coroutine.close()",
)


def answer(client, cell):
    """What a cell has printed and come to, or how it has failed."""
    said = []

    def listen(message):
        content = message["content"]
        if message["msg_type"] == "stream":
            said.append(content["text"].strip())
        elif message["msg_type"] == "execute_result":
            said.append(content["data"]["text/plain"])
        elif message["msg_type"] == "error":
            said.append(f"{content['ename']}: {content['evalue']}")

    client.execute_interactive(cell, timeout=30, output_hook=listen)
    return said


def main():
    manager = KernelManager()
    command = [*sys.argv[1:], "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=command, display_name="", language="python")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=30)
        for cell in CELLS:
            print(json.dumps(answer(client, cell)), flush=True)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)


main()
