"""USDT probes: the notes that tracers read, and that a debugger and bpftrace find the probes where they say."""

import re
import shutil
import subprocess
import sys

import pytest
from support import Running

from flexsc_loop.turn import turn

PROBES = {"turn_begin", "turn_end", "sleep", "wake", "publish"}

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="notes are those of ELF files"),
]


def notes():
    """(name, arguments, address) of each probe of the turn."""
    if shutil.which("readelf") is None:
        pytest.skip("there is no readelf")
    told = subprocess.run(
        ["readelf", "--wide", "--notes", turn.__file__], capture_output=True, text=True, check=True,
        env={"LC_ALL": "C"})
    assert "Warning" not in told.stderr + told.stdout and "Error" not in told.stderr
    found = re.findall(
        r"stapsdt\s+0x\w+\s+NT_STAPSDT.*?Provider: (\w+)\s+Name: (\w+)\s+"
        r"Location: 0x(\w+), Base: 0x(\w+), Semaphore: 0x(\w+)\s+Arguments: ([^\n]*)",
        told.stdout, re.DOTALL)
    assert all(provider == "flexsc" for provider, *_ in found)
    assert all(int(semaphore, 16) == 0 and int(base, 16) for _, _, _, base, semaphore, _ in found)
    return [(name, arguments, int(location, 16)) for _, name, location, _, _, arguments in found]


def test_notes():
    found = notes()
    assert {name for name, _, _ in found} == PROBES
    assert all(re.fullmatch(r"8@\S+ -8@\S+", arguments.strip()) for _, arguments, _ in found)


def test_where_the_notes_say_there_is_a_nop():
    if shutil.which("objdump") is None:
        pytest.skip("there is no objdump")
    for name, _, location in notes():
        told = subprocess.run(
            ["objdump", "-d", f"--start-address={location}", f"--stop-address={location + 4}", turn.__file__],
            capture_output=True, text=True, check=True).stdout
        assert re.search(rf"{location:x}:\s.*\bnop\b", told), (name, told)


TURNING = """
async def main():
    print("there")
    while True:
        await asyncio.sleep(0.01)

run(main())
"""


def test_a_debugger_stops_at_a_probe(way):
    if shutil.which("gdb") is None:
        pytest.skip("there is no gdb")
    with Running(way.prelude() + TURNING) as child:
        assert child.line() == "there"
        told = subprocess.run(
            ["gdb", "-q", "-nx", "-batch", "-p", str(child.process.pid), "-iex", "set debuginfod enabled off",
             "-iex", "set auto-load off", "-ex", "break -probe-stap flexsc:wake", "-ex", "continue",
             "-ex", "print $_probe_arg0", "-ex", "detach"],
            capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    if "ptrace: Operation not permitted" in told.stdout + told.stderr:
        pytest.skip("this process may not trace its children")
    assert re.search(r"^\$1 = 1$", told.stdout, re.MULTILINE), told.stdout + told.stderr


def bpftrace(*arguments):
    return subprocess.run(
        ["bpftrace", *arguments], capture_output=True, text=True, timeout=50, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.one_way
@pytest.mark.parametrize("probe", sorted(PROBES - {"publish"}))
def test_bpftrace_attaches(way, probe):
    if shutil.which("bpftrace") is None:
        pytest.skip("there is no bpftrace")
    if bpftrace("-e", "BEGIN { exit(); }").returncode:
        pytest.skip("bpftrace cannot run here: it needs root and a kernel with BPF")
    program = f"usdt:{turn.__file__}:flexsc:{probe} {{ @of[arg0] = count(); @n += 1; if (@n == 5) {{ exit(); }} }}"
    with Running(way.prelude() + TURNING) as child:
        assert child.line() == "there"
        told = bpftrace("-p", str(child.process.pid), "-e", program)
    assert re.search(r"^@of\[1\]: [1-9]", told.stdout, re.MULTILINE), told.stdout + told.stderr
