"""aiofastnet's connections, on this loop's readers and writers; and aiohttp, which hands them over, told not to."""

import http.client
import json
import signal
import ssl
import subprocess
import sys

import pytest
from programs import check_facts, in_threads, module
from support import child_environment, digest, payload

from benchmarks.databases import free_port

pytestmark = [pytest.mark.ours]
SIZE = 3_000_000


@pytest.fixture
def installed():
    """What is installed is asked elsewhere: here, it is kept from being imported."""
    done = subprocess.run([sys.executable, "-c", "import aiofastnet"], capture_output=True, env=child_environment(),
                          check=False)
    if done.returncode:
        pytest.skip("aiofastnet is not installed")


def ask(connection, path, body=None):
    connection.request("GET" if body is None else "POST", path, body)
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    return content


def exchange(connection):
    """Small and large ones, both directions, on one connection; what the application says of itself."""
    try:
        for size in (1, 1000, SIZE):
            assert ask(connection, f"/payload?size={size}") == payload(size)
            assert ask(connection, "/digest", payload(size)).decode() == digest(payload(size))
        return json.loads(ask(connection, "/facts"))
    finally:
        connection.close()


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_aiohttp_through_aiofastnet(installed, start, way, tmp_path, authority, secure):
    port, files = free_port(), []
    context = ssl.create_default_context()
    if secure:
        authority.configure_trust(context)
        issued = authority.issue_cert("127.0.0.1")
        files = [tmp_path / "chain.pem", tmp_path / "key.pem"]
        files[0].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        files[1].write_bytes(issued.private_key_pem.bytes())
    program = start(*module("with_aiofastnet", port, *files))
    program.wait_for("serving")

    def visit(_number):
        if secure:
            return exchange(http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context))
        return exchange(http.client.HTTPConnection("127.0.0.1", port, timeout=20))

    answers = in_threads(4, visit)
    assert len(answers) == 4
    for facts in answers:
        check_facts(facts, way)
        assert facts["transport"].startswith("aiofastnet.")
    assert program.stop(signal.SIGTERM) == 0
    assert program.text() == "serving\n"


WHOSE = """
import asyncio, sys
import flexsc_loop
if sys.argv[1] == "early":
    flexsc_loop.keep_transports()
from aiohttp import ClientSession, web
if sys.argv[1] == "late":
    flexsc_loop.keep_transports()

async def tell(request):
    return web.Response(text=type(request.transport).__module__)

async def main():
    app = web.Application()
    app.router.add_get("/", tell)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with ClientSession() as session, session.get("http://127.0.0.1:%d/" % runner.addresses[0][1]) as answer:
        print(await answer.text(), type(answer.connection.transport).__module__ if answer.connection else "")
    await runner.cleanup()

flexsc_loop.run(main())
"""


@pytest.mark.one_way
@pytest.mark.parametrize("when", ["early", "late", "never"])
def test_aiohttp_keeps_the_loops_own_transports_when_told(installed, way, when):
    aiohttp = pytest.importorskip("aiohttp")
    if not hasattr(sys.modules["aiohttp.connector"], "aiofastnet"):
        pytest.skip(f"aiohttp {aiohttp.__version__} does not know aiofastnet")
    done = subprocess.run([sys.executable, "-c", WHOSE, when], capture_output=True, text=True, timeout=60,
                          env=child_environment(way.environment()), check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("aiofastnet." if when == "never" else "flexsc_loop."), done.stdout
