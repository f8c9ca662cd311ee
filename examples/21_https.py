# requires: 3.11, openssl
"""TLS: HTTPS by hand, a server that is not trusted, and a plain connection that is upgraded."""

import asyncio
import ssl
import subprocess
import tempfile
from pathlib import Path


def make_certificate(folder):
    """A key and a certificate for this machine that vouches for itself."""
    certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
    return certificate, key


async def answer_http(reader, writer):
    method, path, _ = (await reader.readline()).decode().split()
    while (await reader.readline()).strip():
        pass
    body = f"you said {method} {path}\n".encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
    writer.close()
    await writer.wait_closed()


async def get(port, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    ssl_object = writer.get_extra_info("ssl_object")
    print("protocol:", ssl_object.version(), "for", ssl_object.getpeercert()["subjectAltName"])
    writer.write(b"GET /towns HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    print(head.splitlines()[0].decode(), "->", body.decode().strip())
    writer.close()
    await writer.wait_closed()


async def https(server_context, client_context):
    server = await asyncio.start_server(answer_http, "127.0.0.1", 0, ssl=server_context)
    port = server.sockets[0].getsockname()[1]
    await get(port, client_context)
    try:
        await get(port, ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        print("not trusted:", error.verify_message)
    server.close()
    await server.wait_closed()


async def upgrade(server_context, client_context):
    async def serve(reader, writer):
        while line := await reader.readline():
            is_secure = writer.get_extra_info("ssl_object") is not None
            writer.write(b"%s, %s\n" % (line.strip().upper(), b"in private" if is_secure else b"for all to hear"))
            if line == b"starttls\n":
                await writer.start_tls(server_context)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    for line in (b"hello", b"starttls", b"a secret"):
        writer.write(line + b"\n")
        print((await reader.readline()).decode().strip())
        if line == b"starttls":
            await writer.start_tls(client_context, server_hostname="127.0.0.1")
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def main():
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = await asyncio.to_thread(make_certificate, folder)
        server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_context.load_cert_chain(certificate, key)
        client_context = ssl.create_default_context(cafile=certificate)
    await https(server_context, client_context)
    await upgrade(server_context, client_context)


asyncio.run(main())
