"""Floor 5: which version of the package this is; only asked for by who wants to know.

A checkout speaks for itself, whatever else is installed: its extension modules may have been built in place.
"""

from __future__ import annotations

import os


def find_version(folder: str) -> str:
    """The version of the package in `folder`: that of the pyproject.toml beside it, else that of its metadata.

    "unknown" where there are neither, as in a program that was frozen without metadata.
    """
    parent = os.path.dirname(os.path.abspath(folder))
    return _of_checkout(parent) or _of_metadata(parent)


def _of_checkout(parent: str) -> str | None:
    path = os.path.join(parent, "pyproject.toml")
    if not os.path.exists(path):
        return None
    import tomllib

    try:
        with open(path, "rb") as file:
            project = tomllib.load(file).get("project", {})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return None
    return str(project["version"]) if project.get("name") == "flexsc_loop" and "version" in project else None


def _of_metadata(parent: str) -> str:
    from importlib import metadata

    for found in metadata.distributions(name="flexsc_loop", path=[parent]):
        return found.version
    try:
        return metadata.version("flexsc_loop")
    except metadata.PackageNotFoundError:
        return "unknown"
