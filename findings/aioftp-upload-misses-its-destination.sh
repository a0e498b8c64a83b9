#!/bin/sh
# aioftp: upload() of a folder makes its destination, and puts what is in the folder somewhere else.
#
# upload(folder, destination) makes the folder at the destination, empty, and its files beside the current directory: at the
# folder's own name without the destination, or, with write_into=True, at the destination's last part.  Where these are
# the same, which is to upload to "" or, with write_into, to one name, all is well.  Otherwise there is no error, what is
# there under that name is written over, and the destination, if one looks, is there.  It makes no difference whether the
# destination is absolute.  upload() of a file, and download() of a folder, go where they are told.
#
# Seen with aioftp 0.28.3 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30; `site` has one
# file, page; what there is afterwards on the server, or of the download here:
#
#   upload("site"):                                site/page
#   upload("site", "a/b"):                         a/b/site/ (empty), site/page
#   upload("site", "/a/b"):                        a/b/site/ (empty), site/page
#   upload("site", "b", write_into=True):          b/page
#   upload("site", "a/b", write_into=True):        a/b/ (empty), b/page
#   upload("site/page", "a/b"):                    a/b/page
#   download("site", "a/b"):                       a/b/site/page
#   "site/page" was there, upload("site", "a/b"):  written over
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aioftp==0.28.3

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import os
import shutil
import sys
from pathlib import Path

import aioftp

os.chdir(sys.argv[1])
SERVED, HERE = Path("served").absolute(), Path("here").absolute()


def fresh(root):
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()


def there(root):
    """Every file, and every folder that has nothing in it."""
    lines = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            lines.append(str(path.relative_to(root)))
        elif not any(path.iterdir()):
            lines.append(f"{path.relative_to(root)}/ (empty)")
    return ", ".join(lines)


async def main():
    fresh(SERVED)
    fresh(HERE)
    Path("site").mkdir()
    Path("site", "page").write_text("new")
    found = []

    def tell(text, result):
        print(f"{text + ':':46} {result}")
        found.append(result)

    server = aioftp.Server([aioftp.User(base_path=SERVED)])
    await server.start("127.0.0.1", 0)
    async with aioftp.Client.context("127.0.0.1", server.server_port) as client:
        for source, *destination in ("site",), ("site", "a/b"), ("site", "/a/b"):
            await client.upload(source, *destination)
            arguments = ', '.join(f'"{each}"' for each in (source, *destination))
            tell(f"upload({arguments})", there(SERVED))
            fresh(SERVED)
        for destination in "b", "a/b":
            await client.upload("site", destination, write_into=True)
            tell(f'upload("site", "{destination}", write_into=True)', there(SERVED))
            fresh(SERVED)
        await client.upload("site/page", "a/b")
        tell('upload("site/page", "a/b")', there(SERVED))
        fresh(SERVED)

        (SERVED / "site").mkdir()
        (SERVED / "site" / "page").write_text("old")
        await client.download("site", HERE / "a" / "b")
        tell('download("site", "a/b")', there(HERE))
        await client.upload("site", "a/b")
        page = (SERVED / "site" / "page").read_text()
        tell('"site/page" was there, upload("site", "a/b")', "written over" if page == "new" else "as it was")
    await server.close()
    return found


sys.exit(0 if asyncio.run(main()) == [
    "site/page", "a/b/site/ (empty), site/page", "a/b/site/ (empty), site/page", "b/page", "a/b/ (empty), b/page",
    "a/b/page", "a/b/site/page", "written over",
] else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
