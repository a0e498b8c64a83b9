"""Where io_uring is blocked: the loop works on the user page, or says clearly why it cannot."""

import errno
import json
import signal

import pytest
import sandbox
from support import run_python

ECHO = """
import asyncio, logging, sandbox, sys

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    data = bytes(range(256)) * 4000
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    await loop.run_in_executor(None, int)
    writer.close()
    server.close()
    await server.wait_closed()
    print("echoed", flush=True)
"""

AUTO = (
    ECHO
    + """
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s|%(name)s|%(message)s", stream=sys.stdout)
sandbox.block(*sys.argv[1:])
import flexsc_loop
flexsc_loop.run(main())
"""
)

EXPLICIT = """
import asyncio, sandbox, sys
sandbox.block(*sys.argv[1:])
import flexsc_loop
try:
    flexsc_loop.new_event_loop(pages="kernel")
except (OSError, RuntimeError) as exc:
    print(exc)
else:
    print("made")
"""

INFO = """
import sandbox, sys, runpy
sandbox.block(*sys.argv[1:])
sys.argv = ["flexsc_loop", "info", "--json"]
runpy.run_module("flexsc_loop", run_name="__main__")
"""

BLOCKADES = [
    ("EPERM",),
    ("ENOSYS",),
    ("ENOMEM", "setup"),
    ("EPERM", "setup"),
    ("EPERM", "enter"),
    ("EPERM", "register"),
]


@pytest.mark.parametrize("what", ["EPERM", "ENOSYS", "KILL"])
def test_the_filter_itself(what):
    end = run_python(
        """
        import sandbox, sys
        before = sandbox.try_setup()
        sandbox.block(sys.argv[1])
        print(sandbox.try_setup())
        """,
        what,
    )
    if what == "KILL":
        assert end.code == -signal.SIGSYS
    else:
        assert int(end.out) == getattr(errno, what)


@pytest.mark.ours
@pytest.mark.parametrize("blockade", BLOCKADES, ids=" ".join)
def test_auto_takes_the_user_page_and_says_so(blockade):
    end = run_python(AUTO, *blockade)
    assert end.code == 0, end.err
    assert "echoed" in end.out
    lines = [line for line in end.out.splitlines() if line.startswith("DEBUG|flexsc_loop")]
    assert len(lines) == 1
    assert "user" in lines[0] and "io_uring" in lines[0]


@pytest.mark.ours
@pytest.mark.parametrize("threads", ["off", "0", "auto"])
def test_auto_with_every_setting_of_threads(threads):
    end = run_python(AUTO, "EPERM", env={"FLEXSC_THREADS": threads})
    assert end.code == 0, end.err
    assert "echoed" in end.out


@pytest.mark.ours
@pytest.mark.parametrize("blockade", BLOCKADES, ids=" ".join)
def test_an_explicit_kernel_page_is_a_clear_error(blockade):
    end = run_python(EXPLICIT, *blockade)
    assert end.code == 0, end.err
    assert end.out.strip() != "made"
    assert "io_uring" in end.out
    assert "user" in end.out  # the remedy


@pytest.mark.ours
@pytest.mark.parametrize("blockade", BLOCKADES, ids=" ".join)
def test_info_says_why(blockade):
    end = run_python(INFO, *blockade)
    assert end.code == 0, end.err
    told = json.loads(end.out)
    assert told["pages"] == "user"
    assert "io_uring" in json.dumps(told["reasons"])


@pytest.mark.ours
@pytest.mark.parametrize("threads", ["off", "0", "on", "auto"])
def test_the_user_page_makes_no_io_uring_call(threads):
    end = run_python(AUTO, "KILL", env={"FLEXSC_PAGES": "user", "FLEXSC_THREADS": threads})
    assert end.code == 0, end.err
    assert "echoed" in end.out


@pytest.mark.ours
def test_info_for_the_user_page_makes_no_io_uring_call():
    end = run_python(INFO, "KILL", env={"FLEXSC_PAGES": "user"})
    assert end.code == 0, end.err
    assert json.loads(end.out)["pages"] == "user"


#: The command line says how large a ring may be.
SMALL_RINGS = """
import logging
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s|%(name)s|%(message)s", stream=sys.stdout)
sandbox.limit_rings(int(sys.argv[1]))
import flexsc_loop
loop = flexsc_loop.Loop()
print(loop.choice.kind)
loop.run_until_complete(main())
loop.close()
"""


needs_io_uring = pytest.mark.skipif(
    sandbox.try_setup() in (errno.EPERM, errno.ENOSYS), reason="io_uring is blocked on this machine"
)


@pytest.mark.ours
@needs_io_uring
@pytest.mark.parametrize("threads", ["off", "0"])
@pytest.mark.parametrize("pages", ["auto", "kernel"])
def test_a_ring_of_half_the_size_is_no_secret(pages, threads):
    end = run_python(ECHO + SMALL_RINGS, "512", env={"FLEXSC_PAGES": pages, "FLEXSC_THREADS": threads})
    assert end.code == 0, end.err
    assert "kernel\nechoed" in end.out
    (line,) = [line for line in end.out.splitlines() if line.startswith("DEBUG|flexsc_loop")]
    assert "of half the size, 512 entries: not enough lockable memory" in line


@pytest.mark.ours
@needs_io_uring
@pytest.mark.parametrize(("most", "told"), [(1024, False), (512, True)])
def test_info_tells_of_half_the_size(most, told):
    end = run_python(INFO.replace("sandbox.block(*sys.argv[1:])", f"sandbox.limit_rings({most})"))
    assert end.code == 0, end.err
    found = json.loads(end.out)
    assert found["pages"] == "kernel"
    assert any("half the size" in reason for reason in found["reasons"]) is told


@pytest.mark.ours
def test_a_ring_is_halved_once_only():
    end = run_python(ECHO + SMALL_RINGS, "511")
    assert end.code == 0, end.err
    assert "user\nechoed" in end.out


@pytest.mark.ours
def test_an_import_makes_no_io_uring_call():
    end = run_python("import sandbox\nsandbox.block('KILL')\nimport flexsc_loop\nprint('fine')")
    assert (end.code, end.out) == (0, "fine\n"), end.err
