"""The certificate of the servers that speak TLS: self-signed, made once by the `openssl` command."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess

from benchmarks.errors import BenchmarkError
from benchmarks.loadgen import BUILD

DAYS = 3650


def server_context() -> ssl.SSLContext:
    """A server's context as the ssl module makes it, with a P-256 key; BenchmarkError without `openssl`."""
    certificate = BUILD / "certificate.pem"
    if not certificate.exists():
        _make(str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def _make(path: str) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        raise BenchmarkError("servers over TLS need a certificate, made by openssl: apt-get install openssl")
    BUILD.mkdir(exist_ok=True)
    fresh, key = f"{path}.{os.getpid()}", f"{path}.key.{os.getpid()}"
    done = subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
         "-out", fresh, "-days", str(DAYS), "-subj", "/CN=localhost"],
        capture_output=True, text=True, check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"openssl could not make a certificate: {done.stderr.strip()}")
    with open(fresh, "a") as file, open(key) as source:
        file.write(source.read())
    os.unlink(key)
    os.replace(fresh, path)
