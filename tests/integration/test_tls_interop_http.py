"""HTTPS and wss by the libraries that programs use: aiohttp, curl, websockets, uvicorn, httpx."""

import asyncio
import contextlib
import hashlib
import io
import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from peers import PATIENCE_S
from tls_peers import NAMES, VERSIONS, aside, content, digest, required, wheel

BIG = content(5_000_000)


def curl(pki, *arguments):
    command = [required("curl"), "--silent", "--show-error", "--cacert", pki.ca, "--max-time", str(PATIENCE_S)]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, timeout=2 * PATIENCE_S)


async def curls(pki, *arguments):
    """What curl prints; it must succeed."""
    done = await aside(curl, pki, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def serve():
    """An aiohttp server over TLS: gives its URL."""
    web = wheel("aiohttp.web")
    path_key = web.AppKey("path", object)

    async def about(request):
        transport = request.transport
        ssl_object = transport.get_extra_info("ssl_object")
        peercert = transport.get_extra_info("peercert") or {}
        return web.json_response(
            {
                "version": ssl_object.version(),
                "alpn": ssl_object.selected_alpn_protocol(),
                "client": [value for pairs in peercert.get("subject", ()) for _, value in pairs],
                "scheme": request.scheme,
            }
        )

    async def big(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(BIG), 77_777):
            await response.write(BIG[start : start + 77_777])
        await response.write_eof()
        return response

    async def file(request):
        """By loop.sendfile."""
        return web.FileResponse(request.config_dict[path_key])

    async def checksum(request):
        sha256, count = hashlib.sha256(), 0
        async for piece in request.content.iter_any():
            sha256.update(piece)
            count += len(piece)
        return web.json_response([count, sha256.hexdigest()])

    async def echo(request):
        socket = web.WebSocketResponse(max_msg_size=len(BIG))
        await socket.prepare(request)
        async for message in socket:
            if message.type == wheel("aiohttp").WSMsgType.TEXT:
                await socket.send_str(message.data.upper())
            else:
                await socket.send_bytes(message.data)
        return socket

    @contextlib.asynccontextmanager
    async def serve(context, path=None):
        app = web.Application(client_max_size=0)
        app[path_key] = path
        app.add_routes([web.get("/", about), web.get("/big", big), web.get("/file", file), web.get("/echo", echo)])
        app.add_routes([web.post("/checksum", checksum), web.put("/checksum", checksum)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            yield f"https://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    return serve


# --- curl -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_curl_gets(run, pki, serve, version):
    """It offers h2 and http/1.1."""
    options = {"tls1_2": ("--tlsv1.2", "--tls-max", "1.2"), "tls1_3": ("--tlsv1.3",)}[version]

    async def main():
        context = pki.server()
        context.set_alpn_protocols(["http/1.1"])
        async with serve(context) as url:
            answer = json.loads(await curls(pki, *options, url))
        assert answer == {"version": NAMES[version], "alpn": "http/1.1", "client": [], "scheme": "https"}

    run(main)


def test_curl_wants_a_version_that_the_server_has_not(run, pki, serve):
    async def main():
        async with serve(pki.server("tls1_3")) as url:
            done = await aside(curl, pki, "--tls-max", "1.2", url)
        assert done.returncode == 35  # CURLE_SSL_CONNECT_ERROR

    run(main)


def test_curl_does_not_know_the_ca(run, pki, serve, tmp_path):
    async def main():
        async with serve(pki.server()) as url:
            done = await aside(curl, pki, "--cacert", pki.client_cert, url)
        assert done.returncode == 60  # CURLE_PEER_FAILED_VERIFICATION

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_curl_shows_its_certificate(run, pki, serve, version):
    async def main():
        context = pki.server(version)
        context.verify_mode = ssl.CERT_REQUIRED
        async with serve(context) as url:
            answer = json.loads(await curls(pki, "--cert", pki.client_cert, "--key", pki.client_key, url))
            assert answer["client"] == ["a client"]
            done = await aside(curl, pki, url)
            assert done.returncode in (35, 52, 56)  # refused in the handshake, or after its own end of it

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_curl_downloads_and_uploads(run, pki, serve, version, tmp_path):
    (tmp_path / "big").write_bytes(BIG)

    async def main():
        async with serve(pki.server(version), tmp_path / "big") as url:
            for page in ("big", "file"):
                assert digest(await curls(pki, f"{url}/{page}")) == digest(BIG)
            for options in (("--data-binary", f"@{tmp_path / 'big'}"), ("--upload-file", tmp_path / "big")):
                answer = json.loads(await curls(pki, *options, f"{url}/checksum"))
                assert answer == [len(BIG), digest(BIG)]

    run(main)


def test_curl_keeps_a_connection_and_opens_many(run, pki, serve):
    async def main():
        async with serve(pki.server()) as url:
            answers = await curls(pki, "--write-out", "\n%{num_connects}\n", *[url] * 5)
            assert answers.split(b"\n")[1::2] == [b"1", b"0", b"0", b"0", b"0"]
            answers = await curls(pki, "--parallel", "--parallel-immediate", *[url] * 20)
            assert answers.count(b'"scheme": "https"') == 20

    run(main)


# --- aiohttp's client -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_aiohttp_talks_to_itself(run, pki, serve, version):
    aiohttp = wheel("aiohttp")

    async def main():
        server = pki.server(version)
        server.verify_mode = ssl.CERT_REQUIRED
        async with serve(server) as url, aiohttp.ClientSession(url) as session:
            own = {"ssl": pki.client_with_certificate()}
            async with session.get("/", **own) as response:
                answer = await response.json()
            assert (answer["version"], answer["client"]) == (NAMES[version], ["a client"])
            async with session.get("/big", **own) as response:
                assert digest(await response.read()) == digest(BIG)
            async with session.post("/checksum", data=io.BytesIO(BIG), **own) as response:
                assert await response.json() == [len(BIG), digest(BIG)]

    run(main)


def test_aiohttp_gets_at_once(run, pki, serve):
    aiohttp = wheel("aiohttp")

    async def main():
        async with serve(pki.server()) as url, aiohttp.ClientSession(url) as session:

            async def get():
                async with session.get("/", ssl=pki_client) as response:
                    return response.status

            pki_client = pki.client()
            assert await asyncio.gather(*(get() for _ in range(150))) == [200] * 150

    run(main)


def test_aiohttp_tells_what_is_wrong_with_a_certificate(run, pki, serve):
    aiohttp = wheel("aiohttp")

    async def main():
        async with serve(pki.server()) as url, aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError, match="certificate verify failed"):
                await session.get(url, ssl=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
            with pytest.raises(aiohttp.ClientConnectorCertificateError, match="Hostname mismatch"):
                await session.get(url, ssl=pki.client(), server_hostname="elsewhere.test")
            with pytest.raises(aiohttp.ServerFingerprintMismatch):
                await session.get(url, ssl=aiohttp.Fingerprint(bytes(32)))
            der = ssl.PEM_cert_to_DER_cert(Path(pki.cert).read_text())
            async with session.get(url, ssl=aiohttp.Fingerprint(hashlib.sha256(der).digest())) as response:
                assert response.status == 200

    run(main)


@contextlib.asynccontextmanager
async def connect_proxy(context):
    """A proxy that knows CONNECT only; its own connections are over TLS if there is a context."""
    loop, served = asyncio.get_running_loop(), []

    async def pipe(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve_one(reader, writer):
        served.append(asyncio.current_task())
        host, _, port = (await reader.readline()).split()[1].decode().partition(":")
        while (await reader.readline()).strip():
            pass
        there = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))
        for each in (writer, there[1]):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await each.wait_closed()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=context)
    scheme = "https" if context else "http"
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        if served:
            await asyncio.wait(served, timeout=PATIENCE_S)
        await server.wait_closed()


def test_aiohttp_goes_through_a_proxy(run, pki, serve):
    """CONNECT, then start_tls."""
    aiohttp = wheel("aiohttp")

    async def main():
        async with (
            serve(pki.server()) as url,
            connect_proxy(None) as proxy,
            aiohttp.ClientSession(url) as session,
            session.get("/big", ssl=pki.client(), proxy=proxy) as response,
        ):
            assert digest(await response.read()) == digest(BIG)

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio's TLS in TLS came with 3.11")
def test_aiohttp_goes_through_a_proxy_over_tls(run, pki, serve):
    """TLS in TLS. aiohttp would warn if the transport could not do it."""
    aiohttp = wheel("aiohttp")

    async def main():
        options = {"ssl": pki.client()}
        async with (
            serve(pki.server()) as url,
            connect_proxy(pki.server()) as options["proxy"],
            aiohttp.ClientSession(url) as session,
        ):
            async with session.get("/big", **options) as response:
                assert digest(await response.read()) == digest(BIG)
            async with session.post("/checksum", data=io.BytesIO(BIG), **options) as response:
                assert await response.json() == [len(BIG), digest(BIG)]

    run(main)


# --- websockets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [0, 15])
def test_a_websocket_of_aiohttp(run, pki, serve, compress):
    aiohttp = wheel("aiohttp")

    async def main():
        async with serve(pki.server()) as url, aiohttp.ClientSession(url) as session:
            async with session.ws_connect(
                "/echo", ssl=pki.client(), max_msg_size=2 * len(BIG), compress=compress
            ) as socket:
                for number in range(100):
                    await socket.send_str(f"message {number}")
                    assert await socket.receive_str(timeout=PATIENCE_S) == f"MESSAGE {number}"
                await socket.send_bytes(BIG[:4_000_000])
                assert digest(await socket.receive_bytes(timeout=PATIENCE_S)) == digest(BIG[:4_000_000])
            assert socket.close_code == 1000

    run(main)


def test_a_websocket_of_websockets(run, pki):
    """Both ends are of the library of that name."""
    client, server = pytest.importorskip("websockets.asyncio.client"), pytest.importorskip("websockets.asyncio.server")

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async def main():
        async with server.serve(echo, "127.0.0.1", 0, ssl=pki.server(), max_size=None) as serving:
            port = serving.sockets[0].getsockname()[1]
            async with client.connect(f"wss://localhost:{port}", ssl=pki.client(), max_size=None) as connection:
                for number in range(100):
                    await connection.send(f"message {number}")
                    assert await connection.recv() == f"message {number}"
                await (await connection.ping())
                await connection.send(BIG)
                assert digest(await connection.recv()) == digest(BIG)

    run(main)


# --- uvicorn and httpx ----------------------------------------------------------------------------


async def asgi(scope, receive, send):
    """Answers with the scheme and the digest of what was sent, and with BIG if asked for it."""
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    answer = BIG if scope["path"] == "/big" else json.dumps([scope["scheme"], digest(body)]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


@contextlib.asynccontextmanager
async def uvicorn_server(pki):
    uvicorn = pytest.importorskip("uvicorn")
    files = {"ssl_keyfile": pki.key, "ssl_certfile": pki.cert}
    options = {"lifespan": "off", "log_config": None, "loop": "none", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(asgi, host="127.0.0.1", port=0, **files, **options))
    running = asyncio.ensure_future(server.serve())
    try:
        while not server.started:
            assert not running.done()
            await asyncio.sleep(0.01)
        yield f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


def test_uvicorn_serves_httpx(run, pki):
    httpx = pytest.importorskip("httpx")

    async def main():
        async with uvicorn_server(pki) as url, httpx.AsyncClient(verify=pki.client(), base_url=url) as client:
            answers = await asyncio.gather(*(client.post("/", content=b"%d" % number) for number in range(30)))
            assert [answer.json() for answer in answers] == [["https", digest(b"%d" % n)] for n in range(30)]
            assert digest((await client.get("/big")).content) == digest(BIG)
            assert (await client.post("/", content=BIG)).json() == ["https", digest(BIG)]

    run(main)


def test_uvicorn_serves_curl(run, pki, tmp_path):
    (tmp_path / "big").write_bytes(BIG)

    async def main():
        async with uvicorn_server(pki) as url:
            assert digest(await curls(pki, f"{url}/big")) == digest(BIG)
            answer = await curls(pki, "--data-binary", f"@{tmp_path / 'big'}", url)
            assert json.loads(answer) == ["https", digest(BIG)]

    run(main)
