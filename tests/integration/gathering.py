"""Transports that gather their writes, and how to tell.

A transport earns it by two callbacks with several writes. Segments are counted by the kernel (TCP_INFO).
"""

import asyncio
import select
import socket
import struct

from peers import Recorder, close, connect, receive_exactly

TCPI_DATA_SEGS_OUT = 156  # offset in struct tcp_info


def segments(protocol):
    """Segments with data that the protocol's socket has sent."""
    sock = protocol.transport.get_extra_info("socket")
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return struct.unpack_from("I", info, TCPI_DATA_SEGS_OUT)[0]


async def in_callback(function, *args):
    """Its result, or what it raised, after a callback of its own."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def call():
        try:
            done.set_result(function(*args))
        except Exception as error:
            done.set_exception(error)

    loop.call_soon(call)
    return await done


async def segments_of(protocol, function, *args):
    before = segments(protocol)
    await in_callback(function, *args)
    return segments(protocol) - before


async def warm(protocol, peer):
    """Two quick callbacks with two writes each. On a machine that stalls, as many as it takes."""
    for _ in range(200):
        twos = [await segments_of(protocol, write_each, protocol.transport, b"warm", b"warm") for _ in range(3)]
        receive_exactly(peer, 3 * 8)
        if twos[-1] == 1 or not is_aioxide():
            return
    raise AssertionError("it never gathers")


def is_aioxide():
    return type(asyncio.get_running_loop()).__module__.startswith("aioxide")


def write_each(transport, *pieces):
    for piece in pieces:
        transport.write(piece)


def arrived(peer, count=1 << 16):
    """What the peer has got by now. An end of the stream is no byte either."""
    ready, _, _ = select.select([peer], [], [], 0)
    return peer.recv(count) if ready else b""


async def steadily(body, connections=1, make=Recorder):
    """`body` with connections that gather. Again if it fails: a machine that stalls for 1 ms makes them direct."""
    for attempt in range(5):
        pairs = [await connect(make) for _ in range(connections)]
        try:
            for protocol, peer in pairs:
                await warm(protocol, peer)
            await body(*(end for pair in pairs for end in pair))
            return
        except AssertionError:
            if attempt == 4:
                raise
        finally:
            for protocol, peer in pairs:
                await close(protocol, peer)
