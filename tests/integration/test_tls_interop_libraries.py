"""A process in which other packages have brought an OpenSSL of their own: aioxide uses the one of the ssl module."""

import json
import os
import subprocess
import sys

import aioxide
import pytest
from peers import PATIENCE_S

PROGRAM = """
import json
import os
import sys

when, loop_name, ca, cert, key, stranger = sys.argv[1:]


def import_others():
    import psycopg2
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    own = AESGCM(bytes(16))
    assert own.decrypt(bytes(12), own.encrypt(bytes(12), b"text", None), None) == b"text"
    assert psycopg2.extensions.libpq_version() > 0
    with open("/proc/self/maps") as maps:
        libraries = {line.split()[-1] for line in maps if "/libssl" in line}
    assert any("psycopg2_binary" in name for name in libraries), libraries


if when == "globally":
    # Its OpenSSL comes before all others in the order of the loader: `ssl` gets it, too.
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    import psycopg2

    sys.setdlopenflags(flags)
if when in ("globally", "before"):
    import_others()

import asyncio
import ssl


async def serve(reader, writer):
    writer.write((await reader.readline()).upper())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def talk():
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(cert, key)
    context = ssl.create_default_context(cafile=ca)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
    port = server.sockets[0].getsockname()[1]
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        writer.write(b"hello\\n")
        assert await reader.read() == b"HELLO\\n"
        writer.close()
        await writer.wait_closed()
    try:
        await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context(cafile=stranger))
    except ssl.SSLCertVerificationError as exception:
        print(exception.reason)
    server.close()
    await server.wait_closed()


if loop_name == "aioxide":
    import aioxide

    aioxide.install()
if when == "after":
    import_others()
asyncio.run(talk())
if when == "between":
    import_others()
    asyncio.run(talk())
if loop_name == "aioxide":
    print(json.dumps(aioxide.build_info()))
"""


def program(pki, when, loop_name, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, when, loop_name, pki.ca, pki.cert, pki.key, pki.client_cert],
        capture_output=True, text=True, timeout=3 * PATIENCE_S, env={**os.environ, **environment},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("when", ["before", "after", "between"])
def test_with_libssl_of_psycopg2_and_cryptography(pki, loop_name, is_ours, when):
    """It works, and by the same engine as without them."""
    lines = program(pki, when, loop_name)
    if is_ours:
        assert json.loads(lines.pop()) == aioxide.build_info()
    assert lines == ["CERTIFICATE_VERIFY_FAILED"] * (2 if when == "between" else 1)


def test_with_a_libssl_that_everybody_gets(pki, loop_name, is_ours):
    """Where one cannot know whose functions the ssl module calls, aioxide calls none."""
    lines = program(pki, "globally", loop_name)
    if is_ours:
        assert json.loads(lines.pop())["tls"] == "fallback"
    assert lines == ["CERTIFICATE_VERIFY_FAILED"]


@pytest.mark.aioxide_only
def test_the_other_engine_is_chosen_by_the_environment(pki, loop_name):
    info = json.loads(program(pki, "never", loop_name, AIOXIDE_TLS="fallback").pop())
    assert (info["tls"], info["tls_reason"]) == ("fallback", "AIOXIDE_TLS is set to fallback")
