"""The plan of the house, drawn from the sources: ``python -m tests.plan`` writes it into flexsc_loop/README.md.

A diagram (Mermaid) of the floors, who imports whom, and for each file what its first sentence says of it.
"""

import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from test_floors import PACKAGE, floor, imported_files, sources

DOCUMENT = PACKAGE / "README.md"
BEGIN, END = "<!-- plan: python -m tests.plan -->\n", "<!-- /plan -->\n"
COMMENT = re.compile(r"\A((?:# (?!cython:).*\n)+)")
SENTENCE = re.compile(r'(?:"""|/\*+)\s*(?:Floor \d\b[^:]*:\s*)?(.*?)(?:\.(?=\s|"|\*)|"""|\*/|\n\s*\*?\s*\n)', re.DOTALL)
LIKE_A_HEADER = {".c": ".h", ".pxd": ".pyx"}


def purpose(path):
    """The first sentence of a file's docstring or comment, without its floor and its full stop."""
    text = path.read_text()
    comment = COMMENT.match(text)
    found = SENTENCE.search(f'"""{comment[1].replace("# ", "")}"""' if comment else text)
    return re.sub(r"\s*\n[\s*]*", " ", found.group(1)).strip() if found else ""


def place(path):
    """Where a file stands in the diagram: its floor and its folder."""
    folder = path.relative_to(PACKAGE).parent.as_posix()
    return floor(path), "" if folder == "." else folder


def told(path):
    """Whether a file has a line of its own: not what only declares what another of the same name defines."""
    other = LIKE_A_HEADER.get(path.suffix)
    return path.stem != "__init__" and not (other and path.with_suffix(other).exists())


def boxes():
    """{place: the files that have a line}, the highest floor first."""
    found = {}
    for path in sources():
        if told(path):
            found.setdefault(place(path), []).append(path)
    return dict(sorted(found.items(), key=lambda item: (-item[0][0], item[0][1])))


def arrows():
    """{(place, another place): how many imports and includes lead there}."""
    return Counter(
        (place(path), place(other))
        for path in sources()
        for other in set(imported_files(path))
        if place(path) != place(other) and other.stem != "__init__"
    )


def name(where):
    return f"f{where[0]}_{where[1].replace('/', '_') or 'package'}"


def title(where):
    return f"floor {where[0]}: flexsc_loop/{where[1]}"


def diagram():
    """The floors as a Mermaid flowchart."""
    lines = ["```mermaid", "flowchart TD"]
    for where, files in boxes().items():
        names = [path.stem for path in files]
        kinds = sorted(set(names), key=names.index)
        rows = [", ".join(kinds[at : at + 6]) for at in range(0, len(kinds), 6)]
        lines.append(f'    {name(where)}["<b>{title(where)}</b><br>{"<br>".join(rows)}"]')
    known = set(boxes())
    for (above, below), count in sorted(arrows().items(), key=lambda item: (-item[0][0][0], item[0])):
        if above in known and below in known:
            lines.append(f"    {name(above)} -->|{count}| {name(below)}")
    return "\n".join([*lines, "```"])


def listing():
    """For each place a table of its files."""
    parts = []
    for where, files in boxes().items():
        rows = [f"| `{path.name}` | {purpose(path)} |" for path in files]
        parts.append("\n".join([f"**{title(where)}**", "", "| file | |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def drawn():
    """The whole block, markers included."""
    return f"{BEGIN}\n{diagram()}\n\nThe numbers count imports and includes.\n\n{listing()}\n\n{END}"


def main():
    text = DOCUMENT.read_text()
    start, end = text.index(BEGIN), text.index(END) + len(END)
    DOCUMENT.write_text(text[:start] + drawn() + text[end:])


if __name__ == "__main__":
    main()
