"""What the README, and the pages that it leads to, say: code runs, links lead somewhere, drawings are true."""

import contextlib
import os
import re
import subprocess

import plan
import pytest
from support import ROOT, run_python

import flexsc_loop
from flexsc_loop.insight import rates, read

README = ROOT / "README.md"
FIGURES = ROOT / "benchmarks" / "README.md"
LINES = 180

pytestmark = pytest.mark.skipif(not README.exists(), reason="not a checkout: the README is not here")


def documents():
    """README.md and those beside the code."""
    folders = [ROOT / name for name in ("benchmarks", "examples", "flexsc_loop", "tests")]
    beside = [path for folder in folders for path in folder.rglob("README.md") if "build" not in path.parts]
    return [README, *sorted(beside)]


def named(path):
    return str(path.relative_to(ROOT))


def anchors(path):
    """What links to the headings of a document end in."""
    return {anchor(head) for head in re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)}


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def outside_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_the_first_page_can_be_read_in_ten_minutes():
    assert len(README.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("document", documents(), ids=named)
def test_examples_in_python(document):
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
        end = run_python(block)
        assert (end.code, end.err) == (0, ""), end.err


def test_the_first_page_has_an_example():
    assert "```python\n" in README.read_text()


@pytest.mark.parametrize("document", documents(), ids=named)
def test_commands(document):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    commands = set(re.findall(r"`make (\w+)", document.read_text()))
    assert commands <= targets
    if document == README:
        assert commands >= {"demo", "test"}


@pytest.mark.parametrize("document", documents(), ids=named)
def test_named_files_exist(document):
    made_later = tuple((ROOT / ".gitignore").read_text().split())
    for name in re.findall(r"`((?:examples|benchmarks|tests|flexsc_loop|\.ci)/[\w./]*)`", document.read_text()):
        assert (ROOT / name).exists() or name.startswith(made_later), name


@pytest.mark.parametrize("document", documents(), ids=named)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", outside_code(document.read_text())):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_source_distribution_leaves_nothing_out():
    """What is not the package's, and not taken along by setuptools itself, is named in .ci/building.py."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no checkout of git's")
    by_itself = {"README.md", "LICENSE", "pyproject.toml", "setup.cfg"}
    tracked = {name for name in listed.stdout.splitlines() if not name.startswith("flexsc_loop/")} - by_itself
    (patterns,) = re.findall(r"^ALSO = \((.*?)^\)", (ROOT / ".ci/building.py").read_text(), re.DOTALL | re.MULTILINE)
    found = [path for pattern in re.findall(r'"([^"]+)"', patterns) for path in ROOT.glob(pattern)]
    taken = {str(path.relative_to(ROOT)) for path in found}
    assert tracked and tracked - taken == set()


def test_every_page_is_linked_from_the_first():
    links = re.findall(r"\]\(([^)\s#]+)", README.read_text())
    assert {named(path) for path in documents()} - {"README.md"} <= set(links)


def test_the_plan_is_drawn_from_the_sources():
    """`python -m tests.plan` draws it anew."""
    assert plan.drawn() in plan.DOCUMENT.read_text()


def test_every_file_in_the_plan_says_what_it_is_for():
    purposes = {path: plan.purpose(path) for files in plan.boxes().values() for path in files}
    assert [path for path, purpose in purposes.items() if not purpose or purpose.startswith("cython:")] == []


def test_purposes(tmp_path):
    for name, text, wanted in (
        ("a.py", '"""Floor 5: one. Two."""\n', "one"),
        ("b.py", '"""One\nline.\n\nMore."""\n', "One line"),
        ("c.h", "/* Floor 0: over\n * two lines (see d.h): so. */\n", "over two lines (see d.h): so"),
        ("d.pxd", "# Floor 0: declared\n# once.  Twice.\n\ncdef x\n", "declared once"),
        ("e.py", "import os\n", ""),
        ("f.pyx", '# cython: language_level=3\n"""Floor 1: cells."""\n', "cells"),
    ):
        path = tmp_path / name
        path.write_text(text)
        assert plan.purpose(path) == wanted


# ---- figures


def test_what_top_says_as_json_is_told():
    """All of it, and nothing else."""
    text = (ROOT / "flexsc_loop" / "insight" / "README.md").read_text()
    table = text[text.index("| key | |") :].partition("\n\n")[0]
    told = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    with contextlib.closing(flexsc_loop.new_event_loop()) as loop:
        assert told == set(rates.View(read(loop), None, "", None, None, os.getpid()).data())


def tables(path):
    """The tables between the marks of the figures: each a list of lines."""
    blocks = re.findall(r"<!-- figures -->\n(.*?)<!-- /figures -->", path.read_text(), re.DOTALL)
    assert len(blocks) == 1
    return [part.splitlines() for part in blocks[0].split("\n\n") if part.startswith("|")]


@pytest.mark.parametrize("path", [README, FIGURES], ids=named)
def test_the_tables_of_figures_are_whole(path):
    found = tables(path)
    assert found
    for lines in found:
        assert len({line.count("|") for line in lines}) == 1, "the rows differ in their number of cells"


def test_the_figures_of_the_first_page_are_those_that_were_measured():
    """Each row stands, word for word, in the first table of the page of figures."""
    (short,) = tables(README)
    whole = tables(FIGURES)[0]
    assert short[0] == whole[0]
    assert set(short) <= set(whole)


def test_what_is_told_at_a_glance_is_what_was_measured():
    """Each figure stands in the section to which its row leads as well."""
    parts = re.split(r"^## (.*)\n", FIGURES.read_text(), flags=re.MULTILINE)
    sections = {anchor(heading): text for heading, text in zip(parts[1::2], parts[2::2], strict=True)}
    rows = [line for line in sections["at-a-glance"].splitlines() if line.startswith("| [")]
    assert len(rows) > 10
    missing = []
    for row in rows:
        where = sections[re.search(r"\]\(#([^)]+)\)", row)[1]]
        measured = set(re.findall(r"\d+(?:[.,]\d+)*", where))
        missing += [(row, figure) for figure in re.findall(r"\d+(?:[.,]\d+)*", row) if figure not in measured]
    assert missing == []


def test_the_picture_shows_the_table():
    figures = pytest.importorskip("benchmarks.figures", reason="the benchmarks are not here")
    measured = figures.read(FIGURES.read_text())
    words = re.findall(r"<text[^>]*>(?:<tspan[^>]*>)?([^<]+)", figures.PICTURE.read_text())
    ratios = [f"{ratio:.2f}" for way in range(len(measured.ways)) for _, _, ratios in measured.shown
              for ratio in (ratios[way],)]  # fmt: skip
    shown = [word for word in words if re.fullmatch(r"\d\.\d\d", word)]
    assert shown == ratios
    assert len(measured.shown) == len(figures.SHOWN)
    assert min(min(ratios) for _, _, ratios in measured.rows) in {ratio for row in measured.shown for ratio in row[2]}
    for name, rate, _ in measured.shown:
        assert name in words and f"uvloop: {rate}/s" in words


def test_a_page_without_a_table_of_figures_is_refused():
    figures = pytest.importorskip("benchmarks.figures", reason="the benchmarks are not here")
    with pytest.raises(ValueError, match="no table of figures"):
        figures.read("<!-- figures -->\n\nnothing\n<!-- /figures -->\n")
