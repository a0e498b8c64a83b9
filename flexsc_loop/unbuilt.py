"""Floor 5: what becomes of an import that finds these sources without their extension modules.

A checkout shadows the installed package wherever Python looks into the current folder first: `python -m`, pytest, a
program beside it.  Imports nothing of the package, since nothing else of it could be imported then.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from importlib.util import module_from_spec


def is_built(folder: str) -> bool:
    """Whether the package in `folder` has extension modules for this Python."""
    return any(os.path.exists(os.path.join(folder, "turn", f"turn{suffix}")) for suffix in EXTENSION_SUFFIXES)


def hand_over(folder: str) -> None:
    """Let `import flexsc_loop` give the installed package instead of the one in `folder`, which is not built.

    Warns of it, because changes to those sources have no effect then.  Raises ImportError with the remedy where none is
    installed.
    """
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    what = f"flexsc_loop in {folder} is not built for Python {version} ({sys.executable})"
    spec = _find_elsewhere(folder)
    if spec is None or spec.loader is None:
        raise ImportError(
            f"{what}, and no other one is installed: `{sys.executable} -m pip install {os.path.dirname(folder)}` "
            f"installs it, `make build PYTHON={version}` builds it in place, for .venv/{version}",
            name="flexsc_loop",
            path=folder,
        )
    warnings.warn(f"{what}: using the installed one, {spec.origin}", RuntimeWarning, stacklevel=3)
    module = module_from_spec(spec)
    sys.modules["flexsc_loop"] = module
    spec.loader.exec_module(module)


def _find_elsewhere(folder: str) -> ModuleSpec | None:
    """The first package of the name on `sys.path` that is built."""
    for entry in sys.path:
        spec = PathFinder.find_spec("flexsc_loop", [entry])
        for place in (spec and spec.submodule_search_locations) or ():
            if not os.path.samefile(place, folder) and is_built(place):
                return spec
    return None
