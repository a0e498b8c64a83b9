"""Jupyter: a kernel on this loop, and what its cells may do on either loop."""

import json
import sys

import pytest

pytest.importorskip("ipykernel")
pytest.importorskip("jupyter_client")

from programs import module

pytestmark = pytest.mark.ours
KERNEL = ["-m", "ipykernel_launcher"]
NESTED = "RuntimeError: flexsc_loop.run() cannot be called from a running event loop"


def answers(start, tmp_path, *command):
    """Of all cells: lists of what they have printed and come to."""
    folders = {"HOME": tmp_path, "IPYTHONDIR": tmp_path / "ipython", "JUPYTER_RUNTIME_DIR": tmp_path / "runtime"}
    driver = start(*module("with_jupyter", sys.executable, *command),
                   env={name: str(path) for name, path in folders.items()})  # fmt: skip
    assert driver.end(50) == 0, driver.text()
    return [json.loads(line) for line in driver.text().splitlines() if line.startswith('["')]


def test_a_kernel_on_this_loop(start, way, tmp_path):
    served, page, *rest = answers(start, tmp_path, "-m", "flexsc_loop", *KERNEL)
    assert (served, rest) == (["True"], [["hello"], ["6"], ["7"], [NESTED]])
    assert page in (["'kernel'"], ["'user'"]) if way.pages == "auto" else page == [repr(way.pages)]


@pytest.mark.one_way
def test_a_plain_kernel_takes_a_thread_for_this_loop(start, tmp_path):
    served, failed, *rest = answers(start, tmp_path, *KERNEL)
    assert served == ["False"] and failed[0].startswith("AttributeError")
    assert rest == [["hello"], ["6"], ["7"], [NESTED]]
