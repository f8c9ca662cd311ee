"""Two ends of a connection: protocols that record, sockets that a test drives by hand.

Nothing sleeps: `await protocol.until(condition)` looks again after each call of the protocol.
"""

import asyncio
import socket
import struct

#: Blocking sockets of a test give up after this, in seconds.
PATIENCE_S = 10


class Recorder(asyncio.Protocol):
    """Writes down its calls."""

    keeps_open = False  # the answer of eof_received

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.calls = []
        self.received = bytearray()
        self.transport = None
        self.lost = self.loop.create_future()
        self._waiting = []

    def note(self, call):
        self.calls.append(call)
        self.look_again()

    def look_again(self):
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def until(self, condition):
        while not condition():
            waiter = self.loop.create_future()
            self._waiting.append(waiter)
            await waiter

    async def until_received(self, count):
        await self.until(lambda: len(self.received) >= count)

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def data_received(self, data):
        self.received += data
        self.look_again()

    def eof_received(self):
        self.note("eof")
        return self.keeps_open

    def pause_writing(self):
        self.note("pause")

    def resume_writing(self):
        self.note("resume")

    def connection_lost(self, exception):
        self.note("lost")
        self.lost.set_result(exception)


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def __init__(self, size=1024):
        super().__init__()
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.data_received(bytes(self.buffer[:count]))


def raises(name, exception=ZeroDivisionError, base=Recorder):
    """A protocol one of whose methods raises."""

    def method(self, *args):
        self.note(name)
        raise exception("from the protocol")

    return type("Raises", (base,), {name: method})


def tcp_pair():
    """Two connected TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname(), PATIENCE_S)
        other, _ = listener.accept()
    other.settimeout(PATIENCE_S)
    return one, other


async def connect(make=Recorder):
    """A protocol with its transport, and the socket at the other end, which blocks with a timeout."""
    here, there = tcp_pair()
    _, protocol = await asyncio.get_running_loop().create_connection(make, sock=here)
    return protocol, there


async def close(protocol, peer=None):
    """The end of a test: close both ends and wait for connection_lost."""
    protocol.transport.abort()
    await protocol.lost
    if peer is not None:
        peer.close()


def reset(sock):
    """Close so that the other end gets ECONNRESET."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def receive_exactly(sock, count):
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, f"the end after {len(data)} of {count} bytes"
        data += piece
    return bytes(data)


async def receive_all(sock, count):
    """The same from a non-blocking socket, while the loop runs."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        piece = await loop.sock_recv(sock, 1 << 20)
        assert piece, f"the end after {len(data)} of {count} bytes"
        data += piece
    return bytes(data)


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


#: More than the kernel's buffers of a loopback connection hold.
TOO_MUCH = 16 << 20
