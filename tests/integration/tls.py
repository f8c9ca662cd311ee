"""TLS for tests: certificates, contexts, a peer that is driven by hand, and all that a loop tells of a scenario.

Certificates are made once per session with the `openssl` command (fixture `certs`). A `Peer` is an SSLObject over
memory and a plain socket, so that a test decides what each segment on the wire holds.
"""

import asyncio
import contextlib
import difflib
import functools
import gc
import logging
import pprint
import re
import resource
import socket
import ssl
import subprocess
import sys
import time
import warnings

from differential import LIMIT_S, LOOPS, describe, outcome, plain
from peers import PATIENCE_S, Recorder, tcp_pair, turns

#: 3.11 has asyncio's second sslproto: another state machine, and timeouts of the shutdown.
NEW = sys.version_info >= (3, 11)

PASSWORD = "a pass phrase"

#: SSL_OP_ALLOW_CLIENT_RENEGOTIATION of OpenSSL 3, for which the ssl module has no name.
OP_ALLOW_CLIENT_RENEGOTIATION = 1 << 8

# --- certificates --------------------------------------------------------------------------------

_CONFIGURATION = """
[ca]
default_ca = here
[here]
database = {folder}/database
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
default_crl_days = 3650
unique_subject = no
policy = any
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
"""

_VALID = "20200101000000Z", "21200101000000Z"
_LOCAL = "DNS:localhost,DNS:*.local.test,IP:127.0.0.1,IP:::1"

#: name: (key, issuer, subject's name, alternative names, extended usage, valid from and to)
_LEAVES = {
    "server": ("rsa", "ca", "localhost", _LOCAL, "serverAuth", _VALID),
    "ec": ("ec", "ca", "localhost", _LOCAL, "serverAuth", _VALID),
    "other": ("rsa", "ca", "other.test", "DNS:other.test", "serverAuth", _VALID),
    "nameless": ("rsa", "ca", "localhost", None, "serverAuth", _VALID),
    "expired": ("rsa", "ca", "localhost", _LOCAL, "serverAuth", ("20200101000000Z", "20210101000000Z")),
    "early": ("rsa", "ca", "localhost", _LOCAL, "serverAuth", ("21190101000000Z", "21200101000000Z")),
    "revoked": ("rsa", "ca", "localhost", _LOCAL, "serverAuth", _VALID),
    "client": ("rsa", "ca", "a client", None, "clientAuth", _VALID),
    "stranger": ("rsa", "other_ca", "localhost", _LOCAL, "serverAuth,clientAuth", _VALID),
    "self_signed": ("rsa", None, "localhost", _LOCAL, "serverAuth", _VALID),
}


class Certificates:
    """PEM files in a folder: `name.pem`, the key in `rsa.key` or `ec.key`, `ca.pem`, `ca.crl`."""

    def __init__(self, folder):
        self.folder = folder
        self.path("openssl.cnf").write_text(_CONFIGURATION.format(folder=folder))
        self.path("database").write_text("")
        self.path("rsa.key").touch()
        self._openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "rsa.key")
        curve = ("-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:named_curve")
        self._openssl("genpkey", "-algorithm", "EC", *curve, "-out", "ec.key")
        encryption = ("-aes256", "-passout", f"pass:{PASSWORD}")
        self._openssl("pkey", "-in", "rsa.key", *encryption, "-out", "encrypted.key")
        for ca in ("ca", "other_ca"):
            subject = ("-subj", f"/CN=aioxide test {ca}", "-days", "36500")
            self._openssl("req", "-x509", "-config", "openssl.cnf", "-key", "ec.key", *subject, "-out", f"{ca}.pem",
                          "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "subjectKeyIdentifier=hash",
                          "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
        for name, (key, ca, common, alternatives, usage, (start, end)) in _LEAVES.items():
            self._openssl("req", "-new", "-config", "openssl.cnf", "-key", f"{key}.key", "-subj", f"/CN={common}",
                          "-out", f"{name}.csr")  # fmt: skip
            extensions = f"extendedKeyUsage={usage}\nauthorityKeyIdentifier=keyid\n"
            if alternatives:
                extensions += f"subjectAltName={alternatives}\n"
            self.path(f"{name}.ext").write_text(extensions)
            signer = ("-cert", f"{ca}.pem", "-keyfile", "ec.key") if ca else ("-selfsign", "-keyfile", f"{key}.key")
            self._openssl("ca", "-batch", "-notext", "-config", "openssl.cnf", *signer, "-in", f"{name}.csr", "-out",
                          f"{name}.pem", "-startdate", start, "-enddate", end, "-extfile", f"{name}.ext")  # fmt: skip
        authority = ("-cert", "ca.pem", "-keyfile", "ec.key")
        self._openssl("ca", "-config", "openssl.cnf", *authority, "-revoke", "revoked.pem")
        self._openssl("ca", "-config", "openssl.cnf", *authority, "-gencrl", "-out", "ca.crl")

    def _openssl(self, *args):
        done = subprocess.run(["openssl", *args], cwd=self.folder, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"openssl {' '.join(args)}: {done.stderr}"

    def path(self, name):
        return self.folder / name

    def chain(self, name):
        """The arguments of `load_cert_chain`."""
        return str(self.path(f"{name}.pem")), str(self.path(f"{_LEAVES[name][0]}.key"))

    def server(self, name="server", make=ssl.SSLContext, **attributes):
        context = make(ssl.PROTOCOL_TLS_SERVER)
        if name:
            context.load_cert_chain(*self.chain(name))
        return self._finish(context, attributes)

    def client(self, name=None, make=ssl.SSLContext, **attributes):
        context = make(ssl.PROTOCOL_TLS_CLIENT)
        if name:
            context.load_cert_chain(*self.chain(name))
        return self._finish(context, attributes)

    def _finish(self, context, attributes):
        context.load_verify_locations(str(self.path("ca.pem")))
        version = attributes.pop("version", None)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        for name, value in attributes.items():
            setattr(context, name, value)
        return context

    def contexts(self, version=None):
        """(server's, client's)"""
        return self.server(version=version), self.client(version=version)

    @functools.cache  # noqa: B019  one object per session
    def shared(self, version=None):
        """The same, for who changes nothing in them."""
        return self.contexts(version)


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
SIDES = ["client", "server"]

# --- the other end -------------------------------------------------------------------------------


class Peer:
    """The other end of a TLS connection, driven by hand."""

    def __init__(self, sock, context, server_side=False, server_hostname=None, session=None):
        sock.setblocking(False)
        self.loop = asyncio.get_running_loop()
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else server_hostname
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, name, session)

    async def send_raw(self, data):
        await self.loop.sock_sendall(self.sock, data)

    async def receive_raw(self, most=1 << 16):
        return await self.loop.sock_recv(self.sock, most)

    async def flush(self):
        if self.outgoing.pending:
            await self.send_raw(self.outgoing.read())

    async def pump(self):
        """One segment from the wire into memory; False at the end."""
        data = await self.receive_raw()
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        return bool(data)

    async def through(self, step, *args):
        """Call it until it wants no more input."""
        while True:
            try:
                result = step(*args)
            except ssl.SSLWantReadError:
                await self.flush()
                await self.pump()
            except ssl.SSLError:
                await self.flush()  # the alert
                raise
            else:
                await self.flush()
                return result

    async def handshake(self):
        await self.through(self.tls.do_handshake)
        return self

    async def send(self, data):
        await self.through(self.tls.write, data)

    def encrypted(self, data):
        """Its records, to be sent as the test likes."""
        if data:
            self.tls.write(data)
        return self.outgoing.read()

    async def receive(self, count):
        data = bytearray()
        while len(data) < count:
            piece = await self.through(self.tls.read, count - len(data))
            assert piece, f"the end after {len(data)} of {count} bytes"
            data += piece
        return bytes(data)

    async def receive_to_end(self):
        """All up to close_notify, or to whatever else ends it: (bytes, what)."""
        data = bytearray()
        while True:
            try:
                piece = await self.through(self.tls.read, 1 << 16)
            except ssl.SSLZeroReturnError:  # after our own
                return bytes(data), "close_notify"
            except OSError as error:
                return bytes(data), type(error).__name__
            if not piece:
                return bytes(data), "close_notify"
            data += piece

    def close_notify(self):
        """The record, and no wait for the answer."""
        with contextlib.suppress(ssl.SSLError):  # it wants the answer, or finds data before it
            self.tls.unwrap()
        return self.outgoing.read()

    def shut(self):
        self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        self.sock.close()


def opening(make, sock, context, side="client", **options):
    """The coroutine that starts TLS on a connected socket, as the client or as the server."""
    loop = asyncio.get_running_loop()
    if side == "client":
        options.setdefault("server_hostname", "localhost")
        return loop.create_connection(make, sock=sock, ssl=context, **options)
    return loop.connect_accepted_socket(make, sock, ssl=context, **options)


def half_secure(certs, side, make=Recorder, version=None, contexts=None, **options):
    """A task that opens a transport, and its peer, which has not begun."""
    here, there = tcp_pair()
    server, client = contexts or certs.shared(version)
    if side == "client":
        peer = Peer(there, server, server_side=True)
    else:
        peer = Peer(there, client, server_hostname="localhost")
    context = client if side == "client" else server
    return asyncio.ensure_future(opening(make, here, context, side, **options)), peer


async def secure(certs, side="client", make=Recorder, version=None, contexts=None, **options):
    """A protocol with its TLS transport, and its peer; both have ended the handshake."""
    task, peer = half_secure(certs, side, make, version, contexts, **options)
    (_, protocol), _ = await asyncio.gather(task, peer.handshake())
    return protocol, peer


async def attempt(certs, side, make=Recorder, version=None, contexts=None, **options):
    """A handshake that may fail: (what came of it, what the peer saw, the protocol or None, the peer)."""
    task, peer = half_secure(certs, side, make, version, contexts, **options)
    with_peer = asyncio.ensure_future(outcome(peer.handshake()))
    await asyncio.wait([task], timeout=PATIENCE_S / 2)
    assert task.done(), "the handshake does not end"
    kind, result = await outcome(task)
    protocol = result[1] if kind == "is" else None
    if protocol is None:
        with contextlib.suppress(OSError):  # it was reset
            peer.shut()
    kind_of_peer, seen_by_peer = await asyncio.wait_for(with_peer, PATIENCE_S / 2)
    if kind_of_peer == "is":
        seen_by_peer = None
    return (kind, None if protocol else result), (kind_of_peer, seen_by_peer), protocol, peer


async def secure_pair(certs, make=Recorder, version=None, contexts=None, **options):
    """Two protocols, both on this loop: (client's, server's)."""
    here, there = tcp_pair()
    server, client = contexts or certs.shared(version)
    (_, one), (_, other) = await asyncio.gather(
        opening(make, here, client, "client", **options), opening(make, there, server, "server", **options)
    )
    return one, other


async def drop(protocol, peer=None):
    """The end of a test."""
    if protocol.transport is not None and not protocol.lost.done():
        protocol.transport.abort()
        await protocol.lost
    if peer is not None:
        peer.close()


async def drop_both(*protocols):
    for protocol in protocols:
        await drop(protocol)


async def calm(seconds=0.05):
    """Nothing spins: no processor time, and the thread sleeps."""
    await turns(5)
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    before, used = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw, time.thread_time()
    await over
    used = time.thread_time() - used
    assert used < seconds / 2, f"{used} s of processor time in {seconds} s of waiting"
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before < 50


# --- one scenario, two loops ---------------------------------------------------------------------

_NOISE = [
    (re.compile(r"<asyncio\.sslproto\.SSLProtocol object at 0x[0-9a-f]*>"), "<TLS>"),
    (re.compile(r"<SSLTransport\b[^'\n]*?bufsize=\d+>>>|<SSLTransport[^<>]*(<[^<>]*>)?>"), "<TLS>"),
    (re.compile(r"took \d+\.\d+ ms"), "took TIME"),
    (re.compile(r"<asyncio\.sslproto\._SSLProtocolTransport object at 0x[0-9a-f]*>"), "<TLS>"),
    (re.compile(r"\b_SSLProtocolTransport\b"), "SSLTransport"),
]
_NOT_COMPARED = re.compile(r"Using selector|^poll |Executing <|is serving|connected to")


def plain_tls(text):
    text = plain(text)
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text


class _Log(logging.Handler):
    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        text = record.getMessage()
        if not _NOT_COMPARED.search(text):
            error = record.exc_info[1] if record.exc_info else None
            if isinstance(error, ConnectionAbortedError):
                error = None  # of a timeout: asyncio asks for it where none is being handled
            self.lines.append((record.levelname, plain_tls(text), describe(error)))


def observe(name, scenario, *args, debug=False, unclosed=False):
    """What a coroutine function returns on one of the loops, and all that loop reported, logged and warned of."""
    log, reports, unraisable = _Log(), [], []

    def report(loop, context):
        others = sorted(set(context) - {"message", "exception"})
        reports.append((plain_tls(context["message"]), describe(context.get("exception")), others))

    def hook(found):
        unraisable.append(describe(found.exc_value))

    logger = logging.getLogger("asyncio")
    level, old_hook = logger.level, sys.unraisablehook
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # what a failed test has left
    loop = LOOPS[name]()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            logger.addHandler(log)
            logger.setLevel(logging.DEBUG if debug else logging.WARNING)
            sys.unraisablehook = hook
            loop.set_exception_handler(report)
            loop.set_debug(debug)
            loop.slow_callback_duration = 1000
            result = loop.run_until_complete(asyncio.wait_for(scenario(*args), LIMIT_S))
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
            gc.collect()
            sys.unraisablehook = old_hook
            logger.setLevel(level)
            logger.removeHandler(log)
    # What asyncio leaves to the collector after a failure is closed by aioxide: compared only by who asks for it.
    warned = [
        (one.category.__name__, plain_tls(str(one.message)))
        for one in warned
        if unclosed or one.category is not ResourceWarning
    ]
    return {"result": result, "reports": reports, "log": log.lines, "warnings": warned, "unraisable": unraisable}


def same(scenario, *args, debug=False, unclosed=False):
    """Assert that both loops do the same; what they did."""
    theirs = observe("asyncio", scenario, *args, debug=debug, unclosed=unclosed)
    ours = observe("aioxide", scenario, *args, debug=debug, unclosed=unclosed)
    lines = [pprint.pformat(seen, width=110).splitlines() for seen in (theirs, ours)]
    assert ours == theirs, "\n".join(difflib.unified_diff(*lines, "asyncio", "aioxide", lineterm="", n=1))
    return ours
