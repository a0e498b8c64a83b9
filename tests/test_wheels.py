"""What `make wheels` writes and refuses; with FLEXSC_WHEELS=1, the wheels in build/wheels/ (of these sources)."""

import base64
import hashlib
import importlib
import os
import subprocess
import zipfile

import pytest
from support import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="not a checkout")
MADE = sorted((ROOT / "build" / "wheels").glob("*.whl")) if os.environ.get("FLEXSC_WHEELS") else []


@pytest.fixture
def files(monkeypatch):
    pytest.importorskip("setuptools")
    monkeypatch.syspath_prepend(ROOT / ".ci")
    return importlib.import_module("wheel_files")


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / ".ci")
    return importlib.import_module("wheel_checks")


def test_the_same_content_gives_the_same_bytes(files, tmp_path, monkeypatch):
    content = {"p/b.so": b"b", "p/a.py": b"a", "p-1.dist-info/RECORD": b"r"}
    files.write_zip(tmp_path / "1.whl", content, 1_700_000_000)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    files.write_zip(tmp_path / "2.whl", dict(reversed(content.items())), 1_700_000_000)
    assert (tmp_path / "1.whl").read_bytes() == (tmp_path / "2.whl").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.whl") as archive:
        assert archive.namelist() == ["p/a.py", "p/b.so", "p-1.dist-info/RECORD"]
        assert archive.getinfo("p/a.py").date_time == (2023, 11, 14, 22, 13, 20)


def test_the_date_is_the_callers_or_the_commits(files, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert files.source_date() == 1_700_000_000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert files.source_date() == 315_532_800


def test_the_source_distribution_has_all_that_is_under_version_control(files, monkeypatch):
    building = importlib.import_module("building")
    monkeypatch.chdir(ROOT)
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a checkout")
    command = building.BuildExtensions(files.Distribution({"ext_modules": []}))
    command.ensure_finalized()
    packed = set(command.get_source_files())
    # The package's own sources, the licence and the like are setuptools' to find.
    folders = (".ci/", "Makefile", "benchmarks/", "examples/", "tests/")
    documents = {name for name in listed if name.startswith("flexsc_loop/") and name.endswith(".md")}
    wanted = documents | {name for name in listed if name.startswith(folders)}
    assert {"flexsc_loop/README.md", "tests/conftest.py", "benchmarks/figures.svg"} <= wanted
    assert wanted - packed == set()


@pytest.mark.parametrize(("found", "claimed", "expected"), [
    ("manylinux_2_28_x86_64", "manylinux_2_28_x86_64", True),
    ("manylinux_2_5_x86_64", "manylinux_2_28_x86_64", True),
    ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", False),
    ("manylinux_2_28_aarch64", "manylinux_2_28_x86_64", False),
    ("musllinux_1_2_x86_64", "manylinux_2_28_x86_64", False),
    ("linux_x86_64", "manylinux_2_28_x86_64", False),
])
def test_which_platform_serves_which(checks, found, claimed, expected):
    assert checks.serves(found, claimed) is expected


@pytest.mark.skipif(not MADE, reason="not asked for: FLEXSC_WHEELS=1, after `make wheels`")
@pytest.mark.parametrize("path", MADE, ids=lambda path: path.stem)
def test_a_wheel_is_small_and_whole(path):
    assert path.stat().st_size <= 2_500_000
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (record,) = [name for name in names if name.endswith(".dist-info/RECORD")]
        rows = [row.rsplit(",", 2) for row in archive.read(record).decode().splitlines()]
        assert sorted(row[0] for row in rows) == sorted(names)
        for name, digest, _ in rows:
            if name != record:
                actual = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).decode().rstrip("=")
                assert digest == f"sha256={actual}", name
            assert str(ROOT).encode() not in archive.read(name), name
        modules = {name.partition(".")[0] for name in names if name.endswith(".so")}
        sources = {str(source.relative_to(ROOT).with_suffix("")) for source in (ROOT / "flexsc_loop").rglob("*.pyx")}
        assert modules == sources | {"flexsc_loop/cython_shared"}
        assert {str(source.relative_to(ROOT)) for source in (ROOT / "flexsc_loop").rglob("*.py")} <= set(names)
