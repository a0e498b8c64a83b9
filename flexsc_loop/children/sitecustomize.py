"""Found through PYTHONPATH by children of `python -m flexsc_loop --children`: has them run this loop, too.

Not a part of the package, and imported before anything else is: it must not fail.
"""

import os
import sys


def _take_over() -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.append(root)
    try:
        from flexsc_loop.programs import take_over
    except ImportError as error:
        # Another Python, say, than the one it was built for.
        sys.stderr.write(f"flexsc_loop: this child of a program that runs on it does not: {error}\n")
        return
    finally:
        sys.path.remove(root)
    take_over()


def _go_on() -> None:
    """Import the `sitecustomize` that this one stands before, if there is one."""
    folder = os.path.dirname(os.path.abspath(__file__))
    hidden = [path for path in sys.path if os.path.abspath(path) == folder]
    for path in hidden:
        sys.path.remove(path)
    this = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # type: ignore[import-not-found] # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = this


if __name__ == "sitecustomize":  # not where tools import whatever lies in the package
    _take_over()
    _go_on()
