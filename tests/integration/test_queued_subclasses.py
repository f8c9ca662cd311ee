"""Instances of subclasses of `bytes` that are written: they may refer to anything, their own transport too."""

import asyncio
import gc
import os
import socket
import warnings
import weakref

import pytest
from peers import TOO_MUCH, Recorder, connect
from pipe_ends import connect_writer, read_to_end

pytestmark = pytest.mark.usefixtures("no_leaks")


class Tagged(bytes):
    tag = None


async def make(kind):
    """A transport, and its peer's descriptor."""
    if kind == "pipe":
        reader, writer = os.pipe()
        return (await connect_writer(writer)).transport, reader
    if kind == "tcp":
        protocol, peer = await connect()
        return protocol.transport, peer.detach()
    here, there = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_unix_connection(Recorder, sock=here)
    return transport, there.detach()


def write(transport, how, data):
    if how == "write":
        transport.write(data)
        transport.write(data)
    else:
        transport.writelines([data, data])


@pytest.mark.parametrize("how", ["write", "writelines"])
@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix"])
def test_a_transport_that_its_own_queue_refers_to_is_collected(new_loop, kind, how):
    loop = new_loop()

    async def main():
        transport, peer = await make(kind)
        data = Tagged(bytes(TOO_MUCH))
        data.tag = transport
        write(transport, how, data)
        assert transport.get_write_buffer_size() > 0
        return weakref.ref(transport), peer

    transport, peer = loop.run_until_complete(main())
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
        gc.collect()
    assert transport() is None
    os.close(peer)


@pytest.mark.parametrize("how", ["write", "writelines"])
@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix"])
def test_all_of_it_arrives(run, kind, how):
    async def main():
        transport, peer = await make(kind)
        os.set_blocking(peer, False)
        data = Tagged(os.urandom(TOO_MUCH))
        write(transport, how, data)
        transport.close()
        assert await read_to_end(peer) == data + data
        await asyncio.sleep(0.01)
        os.close(peer)

    run(main)


def test_a_datagram(run):
    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            make = asyncio.get_running_loop().create_datagram_endpoint
            connected, _ = await make(asyncio.DatagramProtocol, remote_addr=peer.getsockname())
            free, _ = await make(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
            peer.settimeout(5)
            connected.sendto(Tagged(b"connected"))
            assert peer.recv(100) == b"connected"
            free.sendto(Tagged(b"free"), peer.getsockname())
            assert peer.recv(100) == b"free"
            connected.close()
            free.close()
            await asyncio.sleep(0.01)

    run(main)
