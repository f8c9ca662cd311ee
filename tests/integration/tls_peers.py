"""Peers of the tests of TLS that share no code with a loop: blocking ssl sockets in threads, `openssl`, curl.

Their keys and certificates are made when the tests run, by `openssl`. Whoever drives a peer blocks, so it runs in a
thread beside the loop (`aside`); every wait of such a thread is bounded by PATIENCE_S.
"""

import asyncio
import contextlib
import functools
import hashlib
import importlib
import os
import random
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
from peers import PATIENCE_S, Recorder
from serving import Serving

#: SSL_OP_ALLOW_CLIENT_RENEGOTIATION of OpenSSL 3, which the ssl module does not name.
ALLOW_CLIENT_RENEGOTIATION = 1 << 8

#: A key that both ends know before.
PSK = bytes(range(32))

VERSIONS = {"tls1_2": ssl.TLSVersion.TLSv1_2, "tls1_3": ssl.TLSVersion.TLSv1_3}
NAMES = {"tls1_2": "TLSv1.2", "tls1_3": "TLSv1.3"}


def required(name):
    """The program's path; without it the test is skipped, or fails if the peers must be there (CI)."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("AIOXIDE_REQUIRE_TLS_PEERS"):
            pytest.fail(f"{name} is required, but not installed")
        pytest.skip(f"{name} is not installed")
    return path


async def aside(function, *args, **options):
    """Run what blocks in a thread of the loop's executor."""
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *args, **options))


class Files:
    """The keys and certificates of one CA, in a folder: of a server on loopback and of a client."""

    def __init__(self, folder):
        self.folder = folder
        self.ca, self.ca_key = self._path("ca.pem"), self._path("ca.key")
        self.cert, self.key = self._path("server.pem"), self._path("server.key")
        self.client_cert, self.client_key = self._path("client.pem"), self._path("client.key")
        self._make("ca", "a private CA", "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
        names = "subjectAltName=DNS:localhost,DNS:other.test,IP:127.0.0.1"
        self._make("server", "localhost", names, "extendedKeyUsage=serverAuth", signed=True)
        self._make("client", "a client", "extendedKeyUsage=clientAuth", signed=True)

    def _path(self, name):
        return str(self.folder / name)

    def _make(self, name, subject, *extensions, signed=False):
        command = [
            required("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", self._path(f"{name}.key"), "-out", self._path(f"{name}.pem"), "-subj", f"/CN={subject}",
            "-days", "30", "-config", os.devnull, "-addext", "subjectKeyIdentifier=hash",
        ]  # fmt: skip
        for extension in extensions:
            command += ["-addext", extension]
        if signed:
            command += ["-CA", self.ca, "-CAkey", self.ca_key, "-addext", "authorityKeyIdentifier=keyid"]
            command += ["-addext", "basicConstraints=CA:FALSE"]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)

    def server(self, version=None, make=ssl.SSLContext):
        context = make(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        context.load_verify_locations(self.ca)
        return _only(context, version)

    def client(self, version=None, make=ssl.SSLContext):
        """It has no certificate of its own."""
        context = make(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        return _only(context, version)

    def client_with_certificate(self, version=None):
        context = self.client(version)
        context.load_cert_chain(self.client_cert, self.client_key)
        return context


def _only(context, version):
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


class Program:
    """A program driven by its pipes; killed at the end of the `with` block, should it still run."""

    def __init__(self, *command, input=subprocess.PIPE, errors=subprocess.STDOUT):
        self.output = b""
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=input, stdout=subprocess.PIPE, stderr=errors, bufsize=0,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.end_input()

    def send(self, data):
        self._process.stdin.write(data)

    def end_input(self):
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self):
        self._process.kill()
        self._process.wait()

    def read_until(self, marker, count=1):
        """Read until the marker has come, `count` times; what came up to there is taken from the output."""
        deadline = time.monotonic() + PATIENCE_S
        while self.output.count(marker) < count:
            assert self._read(deadline), f"no {marker!r} in {self._tail()}"
        *pieces, self.output = self.output.split(marker, count)
        return marker.join(pieces)

    def finish(self):
        """Wait for the end of the output and of the program; the output that is left, and the exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self.output, self._process.wait(PATIENCE_S)

    def _tail(self):
        return self.output[-1000:].decode(errors="replace")

    def _read(self, deadline):
        ready, _, _ = select.select([self._process.stdout], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"nothing more after {self._tail()}"
        piece = os.read(self._process.stdout.fileno(), 1 << 16)
        self.output += piece
        return piece


def s_client(files, port, *options, **keywords):
    verify = ("-CAfile", files.ca, "-verify_return_error", "-servername", "localhost")
    return Program(required("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", *verify, *options, **keywords)


@contextlib.contextmanager
def s_server(files, *options, **keywords):
    """A listening `openssl s_server`; gives the program and its port."""
    own = ("-cert", files.cert, "-key", files.key)
    # Port 0: it says which one it got.
    command = (required("openssl"), "s_server", "-accept", "127.0.0.1:0", *own, *options)
    with Program(*command, **keywords) as program:
        program.read_until(b"ACCEPT 127.0.0.1:")
        yield program, int(program.read_until(b"\n"))


def blocking_client(context, address, server_hostname="localhost"):
    """A connected TLS socket. The caller closes it."""
    plain = socket.create_connection(address, PATIENCE_S)
    try:
        return context.wrap_socket(plain, server_hostname=server_hostname)
    except BaseException:
        plain.close()
        raise


class BlockingServer:
    """A thread that accepts one plain connection and gives it to `serve`, whose result `outcome` awaits."""

    def __init__(self, serve):
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE_S)
        self.address = self._listener.getsockname()

    async def __aenter__(self):
        self._running = asyncio.ensure_future(aside(self._accept))
        return self

    def _accept(self):
        with self._listener:
            plain, _ = self._listener.accept()
        plain.settimeout(PATIENCE_S)
        with plain:
            return self._serve(plain)

    async def outcome(self):
        return await self._running

    async def __aexit__(self, *exception):
        await asyncio.wait([self._running])
        if exception[0] is None:
            self._running.result()


def receive(sock, count):
    """Exactly so many bytes from a blocking socket."""
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, f"the end after {len(data)} of {count} bytes"
        data += piece
    return bytes(data)


def receive_to_end(sock):
    """All bytes until the end, with a digest: (count, digest)."""
    count, digest = 0, hashlib.sha256()
    while piece := sock.recv(1 << 16):
        count += len(piece)
        digest.update(piece)
    return count, digest.hexdigest()


def both_ways(sock, data, count):
    """Send the data and receive so many bytes at the same time; those. One thread: OpenSSL forbids two on one connection."""
    sock.setblocking(False)
    received, rest = bytearray(), memoryview(data)
    while len(received) < count or rest:
        wants_write = False
        try:
            while rest:
                rest = rest[sock.send(rest[:50_000]) :]
        except ssl.SSLWantWriteError:
            wants_write = True
        except ssl.SSLWantReadError:
            pass
        try:
            while len(received) < count:
                piece = sock.recv(min(1 << 16, count - len(received)))
                assert piece, f"the end after {len(received)} of {count} bytes"
                received += piece
        except ssl.SSLWantReadError:
            pass
        else:
            if not rest:
                break
        ready = select.select([sock], [sock] if wants_write else [], [], PATIENCE_S)
        assert any(ready), f"nothing more after {len(received)} of {count} bytes"
    sock.settimeout(PATIENCE_S)
    return bytes(received)


def content(size, seed=0):
    """Bytes that do not repeat, the same each time."""
    return random.Random(seed).randbytes(size)


def digits(size):
    """No letters: a line that begins with one may be a command."""
    return bytes(ord("0") + byte % 10 for byte in content(size))


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Upper(Recorder):
    """Answers each piece in upper case."""

    def data_received(self, data):
        self.transport.write(data.upper())
        super().data_received(data)

    @property
    def ssl_object(self):
        return self.transport.get_extra_info("ssl_object")


class Relay(threading.Thread):
    """Passes bytes between a client and an address, in pieces of the given size, each sent on its own."""

    def __init__(self, address, size):
        super().__init__()
        self._target, self._size = address, size
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE_S)
        self.address = self._listener.getsockname()

    def run(self):
        with self._listener:
            here, _ = self._listener.accept()
        with here, socket.create_connection(self._target, PATIENCE_S) as there:
            for sock in (here, there):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            open_ways = {here: there, there: here}
            while open_ways:
                ready, _, _ = select.select(list(open_ways), [], [], PATIENCE_S)
                if not ready:
                    return
                for sock in ready:
                    self._pass(sock, open_ways)

    def _pass(self, sock, open_ways):
        target = open_ways[sock]
        try:
            piece = sock.recv(1 << 16)
            for start in range(0, len(piece), self._size):
                target.sendall(piece[start : start + self._size])
        except OSError:
            piece = b""
        if not piece:
            del open_ways[sock]
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)


@contextlib.asynccontextmanager
async def serving(make, context, **options):
    """A TLS server with protocols on loopback: a `Serving`, whose `arrived` gives the next protocol after its handshake."""
    server = await Arrivals(make).start(ssl=context, **options)
    try:
        yield server
    finally:
        await server.end()


class Arrivals(Serving):
    """A server from which a test takes the protocols that have their transport, in the order of their handshakes."""

    def __init__(self, make):
        super().__init__(make)
        self._connected = asyncio.Queue()

    def _made(self):
        protocol = super()._made()
        made = protocol.connection_made

        def connection_made(transport):
            made(transport)
            self._connected.put_nowait(protocol)

        protocol.connection_made = connection_made
        return protocol

    async def arrived(self):
        return await self._connected.get()

    @property
    def port(self):
        return self.address[1]


def wheel(name):
    """An installed module; one that has no wheel for a Python so new skips its test, and nothing else does."""
    if sys.version_info >= (3, 15):
        return pytest.importorskip(name, exc_type=ImportError)
    return importlib.import_module(name)


async def talk(context, server_context, server_hostname="localhost"):
    """A connection to a server of the same loop, which answers; the client's ssl_object."""
    async with serving(Upper, server_context) as server:
        _, protocol = await asyncio.get_running_loop().create_connection(
            Recorder, *server.address, ssl=context, server_hostname=server_hostname
        )
        protocol.transport.write(b"hello")
        await protocol.until_received(5)
        assert bytes(protocol.received) == b"HELLO"
        ssl_object = protocol.transport.get_extra_info("ssl_object")
        protocol.transport.close()
        assert await protocol.lost is None
        return ssl_object
