"""Makes wheels, and the source distribution, for all supported Pythons and machines on this one, without a container.

    make wheels                                              all twenty, and the sdist, into build/wheels/
    make wheels ARGS="--python 3.13 --target x86_64-musllinux"

Zig's C compiler (`ziglang`, a package like any other) knows the C libraries of all targets.  Of each Python only the
headers are needed; they are the same for all targets, since all are 64-bit little-endian Linux.  They are looked for
in `--headers DIR` (DIR/python3.14/Python.h), in the Pythons that .ci/venv finds, and in the chroot that .ci/unstable
makes; a version without is an error that says where they can be had, and the other wheels are made all the same.

Two runs give the same bytes: nothing of the machine, the folder or the hour is in them (SOURCE_DATE_EPOCH, else the
date of the last commit).  Each wheel is looked at before it counts: its size, what it needs and gives, what it tells of
this machine, and auditwheel's opinion.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "build" / "wheels"
BUILD = ROOT / "build" / "temp.wheels"
sys.path.insert(0, str(ROOT / ".ci"))
os.chdir(ROOT)

# ruff: noqa: E402 (they lie beside this file)
import building
import wheel_checks
import wheel_files

VERSIONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]


@dataclass(frozen=True)
class Target:
    """What machine and C library a wheel is for: Zig's name, the wheel's tag, and the suffix of its modules."""

    triple: str
    tag: str
    suffix: str

    @property
    def is_musl(self):
        """Whether it is musl's."""
        return self.triple.endswith("musl")


# The oldest glibc that installers know a tag for with all that is called (late_calls.h), and musl's since Alpine 3.13.
TARGETS = {
    f"{machine}-{kind}": Target(f"{machine}-linux-{library}", tag.format(machine), f"{machine}-linux-{suffix}")
    for machine in ("x86_64", "aarch64")
    for kind, library, tag, suffix in (
        ("manylinux", "gnu.2.17", "manylinux_2_17_{0}", "gnu"),
        ("musllinux", "musl", "musllinux_1_2_{0}", "musl"),
    )
}

# As Python itself is compiled, as far as it matters to the code.
FLAGS = ["-DNDEBUG", "-fPIC", "-fwrapv", "-fno-sanitize=all", *building.COMPILE]


class WheelError(Exception):
    """A wheel, or all, cannot be made; the message says what to do."""


# ---- headers


def version_of(include):
    """The Python version, such as "3.13", whose headers lie in this folder, or None."""
    try:
        text = (include / "patchlevel.h").read_text()
    except OSError:
        return None
    return ".".join(re.search(rf"define PY_{part}_VERSION\s+(\d+)", text)[1] for part in ("MAJOR", "MINOR"))


def candidates(version, folders):
    """Where headers may be, the best first."""
    for folder in folders:
        yield from (folder, folder / f"python{version}", folder / "include" / f"python{version}")
    found = subprocess.run([".ci/venv", "find", version], capture_output=True, text=True, check=False)
    if found.returncode == 0:
        code = "import sysconfig; print(sysconfig.get_paths()['include'])"
        done = subprocess.run([found.stdout.strip(), "-c", code], capture_output=True, text=True, check=True)
        yield Path(done.stdout.strip())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    yield cache / "flexsc_loop" / "unstable" / "usr" / "include" / f"python{version}"


def own_headers(version, folders):
    """A copy of the version's headers that serves all targets; WheelError if there are none."""
    for include in candidates(version, folders):
        if (include / "Python.h").exists() and version_of(include) == version:
            break
    else:
        raise WheelError(
            f"no headers of Python {version}: install it with its headers (apt-get install python{version}-dev, "
            f"pyenv install {version}, uv python install {version}), run `.ci/unstable make`, or name their folder: "
            "--headers DIR"
        )
    copy = BUILD / "include" / version
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(include, copy)
    # Debian's asks for the machine's own, which lies beside the others' headers.
    real = sorted(include.parent.glob(f"*-linux-gnu/{include.name}/pyconfig.h"))
    if "linux-gnu" in (copy / "pyconfig.h").read_text() and real:
        shutil.copyfile(real[0], copy / "pyconfig.h")
    config = (copy / "pyconfig.h").read_text()
    if re.search(r"^#define (Py_DEBUG|Py_GIL_DISABLED|Py_TRACE_REFS) 1", config, re.MULTILINE):
        raise WheelError(f"{include} is of a debug or free-threaded build of Python {version}")
    return copy


# ---- compiling


def compile_one(command):
    """Run the compiler; WheelError with its messages."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelError(f"{' '.join(map(str, command))}\n{done.stderr.strip()[-3000:]}")


def zig_for(target):
    """The compiler's command, without arguments."""
    return [sys.executable, "-m", "ziglang", "cc", "-target", target.triple]


def library_for(target, folder):
    """What to link modules with, instead of the compiler's own C library.

    musl's own name is libc.so.  Distributions install it as libc.musl-x86_64.so.1, by which auditwheel, and whoever
    else looks for a reason to refuse a wheel, know a module for musl.  So modules are linked with an empty library that
    has that name; the loader finds what they need.
    """
    if not target.is_musl:
        return []
    empty, library = folder / "empty.c", folder / "libc.so"
    empty.touch()
    name = f"libc.musl-{target.triple.partition('-')[0]}.so.1"
    compile_one([*zig_for(target), "-shared", "-nostdlib", f"-Wl,-soname,{name}", empty, "-o", library])
    return ["-nostdlib", "-Wl,--no-as-needed", library]


def compile_module(extension, target, include, library, objects, output):
    """One extension module, from its C files."""
    zig = zig_for(target)
    folders = [f"-I{name}" for name in [*extension.include_dirs, include.relative_to(ROOT)]]
    flags = [*FLAGS, building.optimization(extension)]
    made = []
    for source in extension.sources:
        made.append(objects / (Path(source).name + ".o"))
        compile_one([*zig, *flags, *folders, "-w", "-c", source, "-o", made[-1]])
    compile_one([*zig, "-shared", "-s", *made, *library, "-o", output])


def compile_all(extensions, version, target, include, workers):
    """All modules for one Python and target: {path in the wheel: file}."""
    folder = BUILD.relative_to(ROOT) / f"{version}-{target.suffix}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    library = library_for(target, folder)
    suffix = f".cpython-{version.replace('.', '')}-{target.suffix}.so"
    made, pending = {}, []
    for extension in extensions:
        name = extension.name.replace(".", "/") + suffix
        objects = folder / "objects" / extension.name
        objects.mkdir(parents=True)
        made[name] = folder / "modules" / name
        made[name].parent.mkdir(parents=True, exist_ok=True)
        pending.append(workers.submit(compile_module, extension, target, include, library, objects, made[name]))
    for one in concurrent.futures.as_completed(pending):
        if one.exception():
            for other in pending:
                other.cancel()
            one.result()
    shutil.rmtree(folder / "objects")
    return made


# ---- all together


def parse_args():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="make wheels", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--python", nargs="+", choices=VERSIONS, default=VERSIONS, metavar="VERSION")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--headers", nargs="+", type=Path, default=[], metavar="DIR", help="where to look first")
    parser.add_argument("--output", type=Path, default=WHEELS, metavar="DIR", help="default: build/wheels/")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-sdist", action="store_true")
    return parser.parse_args()


def make_wheel(args, extensions, project, version, name, include, workers):
    """One wheel, checked."""
    target = TARGETS[name]
    modules = compile_all(extensions, version, target, include, workers)
    path = project.write_wheel(args.output, version, target.tag, modules)
    wheel_checks.check(path, headers=include, private=[str(ROOT), str(Path.home())], triple=target.triple)
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, passed", flush=True)


def main():
    """Make what the command line asks for; the exit status."""
    args = parse_args()
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(BUILD / "zig"))
    os.environ.setdefault("ZIG_LOCAL_CACHE_DIR", str(BUILD / "zig"))
    args.output.mkdir(parents=True, exist_ok=True)
    failed = []
    project = wheel_files.Project(BUILD)
    if not args.no_sdist:
        print(f"{project.write_sdist(args.output).name}: written", flush=True)
    extensions = building.add_shared(project.extensions())
    building.translate(extensions, str(BUILD.relative_to(ROOT) / "c"), args.jobs, quiet=True)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as workers:
        for version in args.python:
            try:
                include = own_headers(version, args.headers)
            except WheelError as error:
                failed.append(f"{version}: {error}")
                continue
            for name in args.target:
                try:
                    make_wheel(args, extensions, project, version, name, include, workers)
                except (WheelError, wheel_checks.Refused) as error:
                    failed.append(f"{version} for {name}: {error}")
                    print(f"error: {failed[-1]}", file=sys.stderr, flush=True)
    if failed:
        print("not made, or not good:", *failed, sep="\n  Python ", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
