"""Two ends that send datagrams: a protocol that records, sockets that a test drives by hand."""

import asyncio
import contextlib
import socket

from differential import describe
from peers import PATIENCE_S, Recorder, turns


class DatagramRecorder(Recorder, asyncio.DatagramProtocol):
    """Writes down its calls."""

    def __init__(self):
        super().__init__()
        self.datagrams = []

    def datagram_received(self, data, addr):
        self.datagrams.append((data, addr))
        self.look_again()

    def error_received(self, error):
        self.note(("error", describe(error)))

    def connection_lost(self, exception):
        self.note("lost")
        if not self.lost.done():
            self.lost.set_result(exception)


def raises(name, exception=ZeroDivisionError):
    """A protocol one of whose methods raises."""

    def method(self, *args):
        self.note(name)
        raise exception("from the protocol")

    return type("Raises", (DatagramRecorder,), {name: method})


async def endpoint(make=DatagramRecorder, **options):
    return await asyncio.get_running_loop().create_datagram_endpoint(make, **options)


async def settle():
    """Let everything happen that would happen by itself."""
    await turns(5)
    await asyncio.sleep(0.002)
    await turns(5)


async def close_all(*protocols):
    for protocol in protocols:
        protocol.transport.abort()
        await protocol.lost


@contextlib.contextmanager
def unix_pair():
    """Two Unix datagram sockets, connected to each other by name, of which the first soon has no room."""
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) for _ in range(2)]
        for sock in pair:
            sock.bind("")  # an abstract name
            sock.settimeout(PATIENCE_S)
        here, there = pair
        here.connect(there.getsockname())
        there.connect(here.getsockname())
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10000)
        yield here, there
