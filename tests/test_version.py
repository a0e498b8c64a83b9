"""Which version the package says it is, and that a wheel of it would be whole."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import ROOT

import flexsc_loop
from flexsc_loop.version import find_version

PACKAGE = Path(flexsc_loop.__file__).parent
CHECKOUT = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not a checkout")


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def metadata(folder, version):
    info = folder / f"flexsc_loop-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flexsc_loop\nVersion: {version}\n")


def output_of(*arguments, cwd):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60, check=True).stdout


@CHECKOUT
@pytest.mark.skipif(PACKAGE.parent != ROOT, reason="an installed package is tested")
def test_a_checkout_has_the_version_of_its_project():
    assert flexsc_loop.__version__ == project()["project"]["version"]


def test_it_is_a_semantic_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", flexsc_loop.__version__)


def test_an_installed_package_has_that_of_its_own_metadata(tmp_path):
    """Not that of another one that Python finds first."""
    metadata(tmp_path, "7.8.9")
    assert find_version(str(tmp_path / "flexsc_loop")) == "7.8.9"


@pytest.mark.parametrize("text", ["", "not [ toml", '[project]\nname = "other"\nversion = "1.0"\n'])
def test_what_else_lies_beside_it_does_not_matter(tmp_path, text):
    metadata(tmp_path, "7.8.9")
    (tmp_path / "pyproject.toml").write_text(text)
    assert find_version(str(tmp_path / "flexsc_loop")) == "7.8.9"


def test_a_checkout_speaks_for_itself(tmp_path):
    metadata(tmp_path, "7.8.9")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "flexsc_loop"\nversion = "1.2.3"\n')
    assert find_version(str(tmp_path / "flexsc_loop")) == "1.2.3"


def test_without_either_it_is_not_guessed(tmp_path):
    shutil.copy(PACKAGE / "version.py", tmp_path / "alone.py")
    code = (
        f"import sys; sys.path[:] = [{str(tmp_path)!r}, *(place for place in sys.path if 'packages' not in place)]\n"
        "import alone; print(alone.find_version('nowhere/flexsc_loop'))"
    )
    assert output_of("-I", "-c", code, cwd=tmp_path) == "unknown\n"


def test_importing_does_not_look_for_it():
    code = "import sys, flexsc_loop; print({'importlib.metadata', 'flexsc_loop.version'} & set(sys.modules))"
    assert output_of("-c", code, cwd=PACKAGE.parent) == "set()\n"


def test_other_names_are_still_refused():
    module = importlib.import_module("flexsc_loop")
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_the_changes_begin_with_this_version():
    text = (PACKAGE / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", text, re.MULTILINE)[1] == flexsc_loop.__version__


@CHECKOUT
def test_every_package_is_installed():
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "flexsc_loop").rglob("__init__.py")
    }
    assert set(project()["tool"]["setuptools"]["packages"]) == packages


@CHECKOUT
def test_every_cython_module_is_built():
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "flexsc_loop").rglob("*.pyx")}
    modules = project()["tool"]["setuptools"]["ext-modules"]
    assert {source for module in modules for source in module["sources"] if source.endswith(".pyx")} == sources


@CHECKOUT
def test_every_hot_module_exists(monkeypatch):
    pytest.importorskip("Cython.Build")
    pytest.importorskip("setuptools")
    monkeypatch.syspath_prepend(ROOT / ".ci")
    building = importlib.import_module("building")
    assert {module["name"] for module in project()["tool"]["setuptools"]["ext-modules"]} >= building.HOT


@CHECKOUT
def test_the_extras_that_are_spoken_of_exist():
    folders = [ROOT / name for name in ("benchmarks", "examples", "flexsc_loop")]
    paths = [path for folder in folders for path in folder.rglob("*.[mp][dy]")]
    texts = [path.read_text() for path in (ROOT / "README.md", *paths)]
    named = {name for text in texts for name in re.findall(r"flexsc_loop\[(\w+)\]", text)}
    assert "top" in named
    assert named - set(project()["project"]["optional-dependencies"]) == set()


@CHECKOUT
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_the_extra_for_the_examples_has_all_that_they_import(path):
    needed = {re.match(r"[\w-]+", name)[0] for name in project()["project"]["optional-dependencies"]["examples"]}
    imported = {name for line in ast.walk(ast.parse(path.read_text())) for name in imports(line)}
    assert imported - set(sys.stdlib_module_names) - {"flexsc_loop"} <= needed


def imports(line):
    """The top-level modules that a line of a program imports."""
    if isinstance(line, ast.ImportFrom):
        return {line.module.partition(".")[0]}
    return {alias.name.partition(".")[0] for alias in line.names} if isinstance(line, ast.Import) else set()
