"""granian with a loop that is registered with it."""

import asyncio
import sys

from granian import Granian, loops

import flexsc_loop


@loops.register("auto")
def make_loop():
    loop = flexsc_loop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    Granian("apps:plain", port=int(sys.argv[1]), interface="asgi").serve()
