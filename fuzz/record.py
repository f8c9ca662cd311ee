"""Record the corpus of `fuzz.records`: what each side sends in a few sessions of TLS, one file for each direction.

    python -m fuzz.record

Most sessions are OpenSSL against itself in memory. Key updates and renegotiation need the `openssl` program, since
Python's ssl module has no call for them. The files differ from run to run, by the random numbers of the handshakes.
"""

import socket
import ssl
import subprocess
import time

from .tls_peers import FOLDER, context

DATA = [b"a short line\n", bytes(100), b"x" * 1000]


class Side:
    def __init__(self, made, server_side):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = made.wrap_bio(self.incoming, self.outgoing, server_side, None if server_side else "localhost")
        self.sent = b""

    def tries(self, call, *args):
        try:
            return call(*args)
        except ssl.SSLError:
            return None

    def give(self, other):
        data = self.outgoing.read()
        self.sent += data
        other.incoming.write(data)


def session(name, client_context, server_context, after=None):
    client, server = Side(client_context, False), Side(server_context, True)
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            one.tries(one.object.do_handshake)
            one.give(other)
    if after is not None:
        after(client, server)
    for one, other in ((client, server), (server, client)):
        for data in DATA:
            one.tries(one.object.write, data)
        one.give(other)
        while other.tries(other.object.read, 1 << 16):
            pass
    for one, other in ((client, server), (server, client)):
        one.tries(one.object.unwrap)
        one.give(other)
    keep(f"{name}-client", client.sent)
    keep(f"{name}-server", server.sent)


def keep(name, data):
    (FOLDER / f"{name}.bin").write_bytes(data)
    print(f"{name}: {len(data)} bytes")


def ask_certificate(client, server):
    server.object.verify_client_post_handshake()
    server.tries(server.object.write, b"?")
    server.give(client)
    client.tries(client.object.read, 100)
    client.give(server)


def with_program(name, version, commands):
    """`openssl s_client` talks to a server of ours: a line that is one letter is a command."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = ["openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", f"-tls{version}"]
        program = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        sock, _ = listener.accept()
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(FOLDER / "server.pem")
    made.options |= 1 << 8  # SSL_OP_ALLOW_CLIENT_RENEGOTIATION
    server, received = Side(made, True), b""
    sock.settimeout(0.5)
    is_ready = False
    while True:
        try:
            data = sock.recv(1 << 16)
        except TimeoutError:
            if not commands:
                break
            program.stdin.write(commands.pop(0))
            program.stdin.flush()
            continue
        if not data:
            break
        received += data
        server.incoming.write(data)
        if not is_ready:
            is_ready = server.tries(server.object.do_handshake) is None and server.object.version() is not None
        while server.tries(server.object.read, 1 << 16):
            server.tries(server.object.write, b"and more\n")
        answer = server.outgoing.read()
        server.sent += answer
        sock.sendall(answer)
        time.sleep(0.05)
    sock.close()
    program.kill()
    program.communicate()
    keep(f"{name}-client", received)
    keep(f"{name}-server", server.sent)


def main():
    for version in ("1.2", "1.3"):
        session(f"{version}-data", context("client", version), context("server", version))
        session(f"{version}-refused", context("client", version), context("server", version, "stranger"))
        session(f"{version}-certificate", context("client", version, "certificate"), context("server", version, "asks"))
    session("1.3-late-certificate", context("client", "1.3"), context("server", "1.3"), ask_certificate)
    session("no-version", context("client", "1.2"), context("server", "1.3"))
    with_program("1.3-key-update", "1_3", [b"one\n", b"k\n", b"two\n", b"K\n", b"three\n", b"Q\n"])
    with_program("1.2-renegotiation", "1_2", [b"one\n", b"R\n", b"two\n", b"Q\n"])


if __name__ == "__main__":
    main()
