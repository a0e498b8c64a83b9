"""What applications say of the loop that runs them."""

from __future__ import annotations

import asyncio
import os
from typing import Any


def facts() -> dict[str, Any]:
    loop: Any = asyncio.get_running_loop()
    choice = getattr(loop, "choice", None)
    return {
        "loop": f"{type(loop).__module__}.{type(loop).__qualname__}",
        "page": choice and choice.kind,
        "cpu": choice and choice.cpu,
        "pid": os.getpid(),
    }
