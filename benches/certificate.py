"""The TLS rows' certificate, and the contexts of both ends.

The openssl command makes it at the start of a run: ECDSA on P-256, signed by itself, for localhost, in a folder that is removed at the
end. The children learn of the folder by a variable.
"""

from __future__ import annotations

import atexit
import os
import ssl
import subprocess
import tempfile
from functools import cache
from pathlib import Path

VARIABLE = "AIOXIDE_BENCHES_CERTIFICATE"
HOST = "localhost"

OPENSSL = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"


@cache
def folder() -> str:
    """Where the certificate is; the driver makes it. Empty without an openssl that can."""
    room = tempfile.TemporaryDirectory(prefix="aioxide-benches-")
    atexit.register(room.cleanup)
    files = ["-keyout", f"{room.name}/key.pem", "-out", f"{room.name}/certificate.pem"]
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    try:
        subprocess.run([*OPENSSL.split(), *files, *subject], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return room.name


def made() -> Path:
    """The same in a child."""
    if not (path := os.environ.get(VARIABLE)):
        raise RuntimeError("no certificate: the openssl command is missing, or too old")
    return Path(path)


def context(server_side: bool) -> ssl.SSLContext:
    """TLS 1.3 and nothing else changed. The client checks certificate and name, as a user's does."""
    made_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    made_context.minimum_version = ssl.TLSVersion.TLSv1_3
    if server_side:
        made_context.load_cert_chain(made() / "certificate.pem", made() / "key.pem")
    else:
        made_context.load_verify_locations(made() / "certificate.pem")
    return made_context
