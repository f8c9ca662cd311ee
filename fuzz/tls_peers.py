"""The other end of a TLS connection: OpenSSL on memory buffers, over a socket that never blocks. No loop has a part in it.

The keys are the fuzzer's own (`corpus/tls/*.pem`), good for nothing else.
"""

import functools
import pathlib
import ssl

FOLDER = pathlib.Path(__file__).parent / "corpus" / "tls"

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

#: What a socket holds of the other side is read at once.
MUCH = 1 << 20


@functools.cache
def context(side, version=None, trouble=None):
    """For both sides the same certificate: each knows the other by it. `trouble` is how this side will not do."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if side == "server" else ssl.PROTOCOL_TLS_CLIENT)
    if side == "server" or trouble == "certificate":
        made.load_cert_chain(FOLDER / ("stranger.pem" if trouble == "stranger" else "server.pem"))
    made.load_verify_locations(FOLDER / "server.pem")
    made.set_alpn_protocols(["fuzz/1", "fuzz/2"] if side == "server" else ["fuzz/2"])
    if trouble == "asks":
        made.verify_mode = ssl.CERT_REQUIRED
    elif side == "server" and version == "1.3":
        made.verify_mode = ssl.CERT_OPTIONAL
    # A server asks for a certificate after the handshake only.
    made.post_handshake_auth = trouble != "asks"
    if version is not None:
        made.minimum_version = made.maximum_version = VERSIONS[version]
    return made


class Peer:
    """Has the methods of a socket which the steps use, and may stand on another `Peer`: TLS in TLS."""

    def __init__(self, sock, context, server_side, name="localhost"):
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_side, None if server_side else name)
        self.is_ready = self.ended_below = self.is_cut = self.is_shut = False
        self.failure = None
        self._unsent = b""

    @property
    def family(self):
        return self.sock.family

    def fileno(self):
        return self.sock.fileno()

    def close(self):
        self.sock.close()

    def setsockopt(self, *what):
        self.sock.setsockopt(*what)

    def shutdown(self, how):
        self.is_shut = True
        self.sock.shutdown(how)

    def root(self):
        """The socket, which may lie deeper."""
        return self.sock.root() if isinstance(self.sock, Peer) else self.sock

    @property
    def is_settled(self):
        """The handshake is over."""
        return self.is_ready or self.failure is not None or self.ended_below

    def flush(self):
        """Send what OpenSSL has written, and what is left of last time."""
        self.send_raw(self.outgoing.read())

    def send_raw(self, data):
        """Bytes as they are."""
        self._unsent += data
        while self._unsent and not self.is_cut:
            try:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
            except BlockingIOError:
                return
            except OSError:
                self.is_cut = True

    def receive(self):
        """One look at what has come; was there anything?"""
        if self.ended_below or self.fileno() < 0:
            return False
        try:
            data = self.sock.recv(MUCH)
        except BlockingIOError:
            return False
        except (OSError, ssl.SSLError):
            data = b""
        if data:
            self.incoming.write(data)
        else:
            self.ended_below = True
        return True

    def pump(self):
        """Send, receive, and go on with the handshake. Did anything come?"""
        self.flush()
        has_come = self.receive()
        if not self.is_settled:
            try:
                self.object.do_handshake()
                self.is_ready = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self.failure = error
            self.flush()
        return has_come

    def send(self, data):
        if not self.is_ready:
            raise BlockingIOError
        count = self.object.write(data)
        self.flush()
        return count

    def recv(self, count):
        """Plain text; b"" is a close_notify or, if `ended_below`, the end of the stream without one."""
        self.pump()
        if not self.is_ready:
            raise BlockingIOError
        try:
            return self.object.read(count)
        except ssl.SSLWantReadError:
            if self.ended_below:
                return b""
            raise BlockingIOError from None
        finally:
            self.flush()

    def notify(self):
        """Send close_notify. Has the other side sent its own?"""
        try:
            self.object.unwrap()
            return True
        except ssl.SSLWantReadError:
            return False
        finally:
            self.flush()
