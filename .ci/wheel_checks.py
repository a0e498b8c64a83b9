"""What a wheel has to be before it counts."""

import functools
import importlib.util
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

MOST_BYTES = 2_500_000
# The C library, with the parts that older glibcs have apart.
LIBRARIES = re.compile(r"libc\.so\.6|libc\.musl-\w+\.so\.1|lib(dl|m|pthread|rt)\.so\.\d|ld-linux-[\w-]+\.so\.[12]")
# What musl has got since 1.2.0, the version that a wheel's tag promises.
YOUNGER_THAN_MUSL_1_2 = {"_Fork", "gettid", "preadv2", "pwritev2", "qsort_r", "reallocarray", "renameat2", "statx"}
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}


class Refused(Exception):
    """The wheel is not what it should be."""


def words(folder):
    """All names in a folder of headers."""
    return {name for path in folder.rglob("*.h") for name in re.findall(r"\w+", path.read_text(errors="replace"))}


@functools.cache
def musl_names():
    """All that musl's library of the oldest version promised gives: what the compiler has, without what came later."""
    compiler = Path(importlib.util.find_spec("ziglang").origin).parent
    names = re.findall(r"^\.type (\w+)", (compiler / "lib/libc/musl/libc.S").read_text(), re.MULTILINE)
    return set(names) - YOUNGER_THAN_MUSL_1_2


def without_home(elf, is_musl):
    """Symbols of no Python that a module needs and its C library does not promise: of a compiler's own library, say."""
    versions = elf.get_section_by_name(".gnu.version")
    for number, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
        missing = symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_GLOBAL"
        if not missing or re.match(r"_?Py", symbol.name):
            continue
        if is_musl:
            promised = symbol.name in musl_names()
        else:
            promised = versions is not None and isinstance(versions.get_symbol(number)["ndx"], int)
        if not promised:
            yield symbol.name


def check_module(name, content, known, machine):
    """One extension module: what it is for, what it gives and needs, and that it says no more than that."""
    from elftools.elf.elffile import ELFFile  # comes with auditwheel, which only who makes wheels has

    elf = ELFFile(io.BytesIO(content))
    if elf["e_machine"] != MACHINES[machine]:
        raise Refused(f"{name} is for {elf['e_machine']}")
    sections = {section.name for section in elf.iter_sections()}
    if any(section.startswith(".debug") for section in sections) or ".symtab" in sections:
        raise Refused(f"{name} has debug information or symbols")
    symbols = [symbol for symbol in elf.get_section_by_name(".dynsym").iter_symbols() if symbol.name]
    given = {symbol.name for symbol in symbols if symbol["st_shndx"] != "SHN_UNDEF"}
    init = "PyInit_" + name.rpartition("/")[2].partition(".")[0]
    if given != {init}:
        raise Refused(f"{name} exports {sorted(given)}, not only {init}")
    needed = {symbol.name for symbol in symbols if symbol["st_shndx"] == "SHN_UNDEF"}
    unknown = {name for name in needed if re.match(r"_?Py", name)} - known
    if unknown:
        raise Refused(f"{name} needs what this Python's headers do not have: {sorted(unknown)}")
    homeless = sorted(without_home(elf, "-linux-musl" in name))
    if homeless:
        raise Refused(f"{name} needs what no C library promises: {homeless}")
    libraries = {tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
    foreign = {library for library in libraries if not LIBRARIES.fullmatch(library)}
    if foreign:
        raise Refused(f"{name} needs the libraries {sorted(foreign)}")


def check(path, *, headers, private, triple):
    """Refused, unless the wheel is small, complete, tells nothing of this machine, and runs where its tag says.

    `headers` are those of its Python, `private` texts that must not be in it, `triple` begins with its machine.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise Refused(f"{path.name} has {size} bytes, more than {MOST_BYTES}")
    known = words(headers)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            for text in private:
                if text.encode() in content:
                    raise Refused(f"{path.name}: {name} has {text} in it")
            if name.endswith(".so"):
                check_module(name, content, known, triple.partition("-")[0])
    check_tag(path)


def check_tag(path):
    """auditwheel has to find the platform that the name claims, or one that any such system is."""
    command = [sys.executable, "-m", "auditwheel", "show", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = " ".join(done.stdout.split())
    claimed = path.stem.rpartition("-")[2]
    found = re.search(r'consistent with the following platform tag: "(\w+)"', text)
    if done.returncode or not found or not serves(found[1], claimed):
        raise Refused(f"{path.name}: auditwheel says: {text or done.stderr.strip()}")


def serves(found, claimed):
    """Whether what needs the platform `found` runs on `claimed`: the same library and machine, not newer."""
    kinds = [re.fullmatch(r"(\D+_)(\d+)_(\d+)_(\w+)", tag) for tag in (found, claimed)]
    if not all(kinds):
        return False
    (kind, *version, machine), (other_kind, *other_version, other_machine) = (match.groups() for match in kinds)
    return (kind, machine) == (other_kind, other_machine) and [*map(int, version)] <= [*map(int, other_version)]
