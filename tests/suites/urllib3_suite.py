"""urllib3's own tests: its pools, TLS and proxies, in a green thread and in a plain one, and so are its servers."""

from __future__ import annotations

from tests.suites.projects import Project, from_source_distribution

SUITE = Project(
    name="urllib3",
    version="2.8.0",
    fetch=from_source_distribution,
    take=("test", "dummyserver", "pyproject.toml"),
    tests=("test/test_*.py", "test/contrib/test_*.py", "test/with_dummyserver/test_*.py"),
    requirements=(
        "anyio[trio]", "h2", "httpx", "hypercorn", "pysocks", "pytest-socket", "pytest-timeout", "quart", "quart-trio",
        "trio", "cryptography", "idna", "pyopenssl", "trustme",
    ),
    groups={
        "https": ("with_dummyserver/test_https.py",),
        "connectionpool": ("with_dummyserver/test_connectionpool.py", "with_dummyserver/test_c*.py"),
        "poolmanager": ("with_dummyserver/test_poolmanager.py", "with_dummyserver/test_no_ssl.py"),
        "proxy": ("with_dummyserver/test_proxy*.py",),
        "socketlevel": ("with_dummyserver/test_socketlevel.py",),
        "contrib": ("contrib/test_*.py",),
    },
    quick=("test_wait.py",),
    excluded=(),
    green=True,
)  # fmt: skip
