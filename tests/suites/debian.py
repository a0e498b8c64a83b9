"""Source packages of Debian: tests that a project's own distributions lack."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.suites.projects import Fetch, Project, run, unpack

SOURCES = """\
Types: deb-src
URIs: {site}
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def from_debian(revision: int) -> Fetch:
    """Take the source package of a release that stays; apt's own settings and lists are left alone."""

    def fetch(project: Project, folder: Path) -> None:
        targets = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian")
        with tempfile.TemporaryDirectory() as temporary:
            sources, lists = Path(temporary, "debian.sources"), Path(temporary, "lists")
            lists.mkdir()
            sources.write_text(SOURCES.format(site=targets.splitlines()[0]))
            options = [f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null",
                       f"Dir::State::lists={lists}", f"Dir::Cache={temporary}",
                       "Dir::State::status=/var/lib/dpkg/status"]  # fmt: skip
            apt = ["apt-get", "-qq", *(part for option in options for part in ("-o", option))]
            run(*apt, "update")
            package = f"python-{project.name}={project.version}-{revision}"
            run(*apt, "source", "--download-only", "--tar-only", package, cwd=Path(temporary))
            (archive,) = Path(temporary).glob("*.orig.tar.*")
            unpack(project, archive, folder)

    return fetch
