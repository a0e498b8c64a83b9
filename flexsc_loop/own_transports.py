"""Floor 5: whose transports a program's connections get, where a package brings its own for every loop.

aiohttp 3.15 hands what it accepts, connects and sends from files to aiofastnet, on any loop, as soon as that can be
imported.  aiofastnet makes its system calls itself, one at a time, and uses of a loop only `add_reader` and
`add_writer`: nothing is left for a page to batch.  Neither of them asks the loop, so it is the import that fails here.
"""

from __future__ import annotations

import sys
from typing import Any

PACKAGE = "aiofastnet"
USERS = ("aiohttp",)


def keep_transports() -> None:
    """Leave connections to the loop's own transports, in this process, whatever package is installed that takes them.

    From now on `import aiofastnet` raises ModuleNotFoundError, and the modules of aiohttp that have imported it hold
    None, as they do where it is not installed.  Connections and servers that there are already stay what they are, so
    call it before there are any.  There is no way back.  FLEXSC_TRANSPORTS=own does it when the first loop is made;
    unless asked for, nothing is touched.
    """
    modules: dict[str, Any] = sys.modules
    modules[PACKAGE] = None
    for name, module in list(modules.items()):
        if name.partition(".")[0] in USERS and getattr(module, PACKAGE, None) is not None:
            setattr(module, PACKAGE, None)
