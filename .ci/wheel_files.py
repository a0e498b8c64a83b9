"""What is in a wheel and in the source distribution, written so that the same content gives the same bytes."""

import base64
import functools
import gzip
import hashlib
import io
import logging
import os
import shutil
import subprocess
import tarfile
import time
import warnings
import zipfile
from pathlib import Path

import setuptools.build_meta
from setuptools import Distribution

# A line for each file that setuptools copies, and its word on a table of pyproject.toml, would hide what matters.
logging.getLogger().addFilter(lambda record: record.levelno > logging.INFO)
warnings.filterwarnings("ignore", message=r".*`\[tool\.setuptools\.ext-modules\]` in `pyproject\.toml`")


def source_date():
    """When the sources are from, in seconds since 1970: SOURCE_DATE_EPOCH, or the last commit, or 1980."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        done = subprocess.run(["git", "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False)
        given = done.stdout.strip()
    # A zip file knows no earlier date.
    return max(int(given or 0), 315532800)


class Project:
    """The package as pyproject.toml describes it; the current folder is its root.  What is made lies in `build`."""

    def __init__(self, build):
        self.build = build
        self.date = source_date()
        self.distribution = Distribution({"script_name": "setup.py"})
        self.distribution.parse_config_files()
        self.name, self.version = self.distribution.get_name(), self.distribution.get_version()

    def extensions(self):
        """The extension modules, as setuptools has them."""
        return list(self.distribution.ext_modules)

    @functools.cached_property
    def plain_files(self):
        """All of a wheel that needs no compiler, the same in each: {path: content}."""
        lib = self.build / "lib"
        shutil.rmtree(lib, ignore_errors=True)
        command = self.distribution.get_command_obj("build_py", create=True)
        command.build_lib, command.compile = str(lib), False
        command.ensure_finalized()
        command.run()
        info = setuptools.build_meta.prepare_metadata_for_build_wheel(str(lib))
        shutil.rmtree(lib / f"{self.name}.egg-info", ignore_errors=True)
        for name in ("RECORD", "WHEEL"):
            (lib / info / name).unlink(missing_ok=True)
        paths = sorted(path for path in lib.rglob("*") if path.is_file())
        return {path.relative_to(lib).as_posix(): path.read_bytes() for path in paths}

    def write_wheel(self, folder, version, platform, modules):
        """A wheel for a Python version such as "3.13"; `modules` are {path in it: file}.  Returns its path."""
        python = "cp" + version.replace(".", "")
        info = f"{self.name}-{self.version}.dist-info"
        files = self.plain_files | {name: path.read_bytes() for name, path in modules.items()}
        tags = "".join(f"Tag: {python}-{python}-{tag}\n" for tag in platform.split("."))
        files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: {self.name}\nRoot-Is-Purelib: false\n{tags}".encode()
        record = f"{info}/RECORD"
        lines = [f"{name},{digest(content)},{len(content)}" for name, content in sorted(files.items())]
        files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
        path = folder / f"{self.name}-{self.version}-{python}-{python}-{platform}.whl"
        write_zip(path, files, self.date)
        return path

    def write_sdist(self, folder):
        """The source distribution.  Returns its path."""
        plain = self.build / "sdist"
        shutil.rmtree(plain, ignore_errors=True)
        plain.mkdir(parents=True)
        name = setuptools.build_meta.build_sdist(str(plain))
        shutil.rmtree(f"{self.name}.egg-info", ignore_errors=True)
        path = Path(folder) / name
        repack(plain / name, path, self.date)
        return path


def digest(content):
    """As a wheel's RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def write_zip(path, files, date):
    """Sorted, with the metadata last, as the wheel format recommends."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
            entry = zipfile.ZipInfo(name, time.gmtime(date)[:6])
            entry.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED, 9)


def repack(source, target, date):
    """The same tar file without who made it, when and in which order."""
    packed = io.BytesIO()
    with tarfile.open(source) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = date, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    with target.open("wb") as file, gzip.GzipFile("", "wb", 9, file, date) as compressed:
        compressed.write(packed.getvalue())
