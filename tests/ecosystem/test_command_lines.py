"""Servers' own command lines through `python -m flexsc_loop --children -m`, without a word to them of the loop."""

import signal

import pytest
from programs import check_facts, fetch, fetch_json, module
from support import digest, payload

from benchmarks.databases import free_port

pytestmark = [pytest.mark.ours, pytest.mark.one_way]

COMMANDS = {
    "uvicorn": ["uvicorn", "--port", "{port}", "apps:plain"],
    "uvicorn with uvloop": ["uvicorn", "--loop", "uvloop", "--port", "{port}", "apps:plain"],
    "uvicorn with workers": ["uvicorn", "--port", "{port}", "--workers", "2", "apps:plain"],
    "gunicorn and uvicorn": ["gunicorn", "-k", "uvicorn.workers.UvicornWorker", "-b", "127.0.0.1:{port}",
                             "--no-control-socket", "apps:plain"],
    "gunicorn and aiohttp": ["gunicorn", "-k", "aiohttp.GunicornWebWorker", "-b", "127.0.0.1:{port}",
                             "--no-control-socket", "site_gunicorn:make"],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}", "apps:plain"],
    "granian": ["granian", "--interface", "asgi", "--port", "{port}", "apps:plain"],
}  # fmt: skip
MODULES = {
    "uvicorn with uvloop": ["uvicorn", "uvloop"],
    "gunicorn and uvicorn": ["gunicorn", "uvicorn.workers"],
    "gunicorn and aiohttp": ["gunicorn", "aiohttp"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_serves_on_this_loop(start, way, name):
    for package in MODULES.get(name, [name.split()[0]]):
        pytest.importorskip(package, exc_type=ImportError)
    port = free_port()
    command = [word.format(port=port) for word in COMMANDS[name]]
    program = start(*module("flexsc_loop", "--children", "-m", *command))
    program.wait_for(*{"granian": ["Listening"], "gunicorn": ["Booting worker"]}.get(command[0], ["unning on"]))
    facts = eventually_served(port)
    assert facts["loop"].startswith("flexsc_loop."), facts
    assert facts["page"] == way.pages or way.pages == "auto"
    body = payload(3_000_000)
    assert fetch(port, "/digest", method="POST", body=body).decode() == digest(body)
    program.stop(signal.SIGTERM)
    assert "Traceback" not in program.text(), program.text()


def eventually_served(port):
    """Some say that they run before they listen."""
    for _ in range(500):
        try:
            return fetch_json(port, "/facts")
        except ConnectionError:
            signal.sigtimedwait([], 0.02)
    raise AssertionError("nobody listens")


def test_granian_with_a_registered_loop(start, way):
    pytest.importorskip("granian")
    port = free_port()
    program = start(*module("with_granian", port))
    program.wait_for("Listening")
    facts = eventually_served(port)
    check_facts(facts, way)
    body = payload(3_000_000)
    assert fetch(port, "/digest", method="POST", body=body).decode() == digest(body)
    assert program.stop(signal.SIGTERM) == 0
