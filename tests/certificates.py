"""A certificate for `localhost`, made when it is needed, and the contexts of a server that has it and a client that trusts it."""

import functools
import os
import ssl
import subprocess
import tempfile

OPENSSL = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"


@functools.cache
def contexts():
    """Of a server and of its client (`server_hostname="localhost"`)."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = os.path.join(folder, "key"), os.path.join(folder, "certificate")
        files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
        subprocess.run([*OPENSSL.split(), *files], check=True, capture_output=True)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
        return server, ssl.create_default_context(cafile=certificate)
