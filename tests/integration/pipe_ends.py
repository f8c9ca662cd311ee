"""Pipes, and what is like them, with a transport at one end.

The other end is a non-blocking descriptor that a test reads from or writes to by hand.
"""

import asyncio
import contextlib
import os
import socket
import sys
import tty
from io import FileIO

import pytest
from differential import describe, plain
from peers import Recorder

#: More than a pipe holds.
TOO_MUCH = 1 << 20

KINDS = ("pipe", "fifo", "socket", "pty")


def ends(kind, path=None):
    """Descriptors of the two ends: for reading, for writing."""
    if kind == "pipe":
        return os.pipe()
    if kind == "fifo":
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        return reader, os.open(path, os.O_WRONLY)
    if kind == "socket":
        reader, writer = socket.socketpair()
        return reader.detach(), writer.detach()
    master, slave = os.openpty()
    tty.setraw(slave)
    return master, slave


async def settle():
    """Let happen what the kernel has to say by now."""
    for _ in range(3):
        await asyncio.sleep(0.001)


class Pipe(Recorder):
    """Writes down what it was lost with, too."""

    def connection_lost(self, exception):
        self.calls.append(describe(exception))
        super().connection_lost(exception)


async def connect_reader(number, make=Pipe):
    transport, protocol = await asyncio.get_running_loop().connect_read_pipe(make, FileIO(number, "rb"))
    protocol.transport = transport
    return protocol


async def connect_writer(number, make=Pipe):
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(make, FileIO(number, "wb"))
    protocol.transport = transport
    return protocol


@contextlib.asynccontextmanager
async def reading(make=Pipe, kind="pipe"):
    """A read transport, and the number of the end to write to (a list: take it out to close it)."""
    reader, writer = ends(kind)
    os.set_blocking(writer, False)
    peer = [writer]
    protocol = await connect_reader(reader, make)
    try:
        yield protocol, peer
    finally:
        protocol.transport.close()
        await settle()
        for number in peer:
            os.close(number)


@contextlib.asynccontextmanager
async def writing(make=Pipe, kind="pipe"):
    """A write transport, and the number of the end to read from (a list: take it out to close it)."""
    reader, writer = ends(kind)
    os.set_blocking(reader, False)
    peer = [reader]
    protocol = await connect_writer(writer, make)
    try:
        yield protocol, peer
    finally:
        if protocol.transport._pipe is not None:
            protocol.transport.abort()
        await settle()
        for number in peer:
            os.close(number)


def read_all(number):
    """All that is there now."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(number, 1 << 20):
            data += piece
    return data


async def read_to_end(number):
    """All until the writer closes."""
    data = bytearray()
    while True:
        try:
            piece = os.read(number, 1 << 20)
        except BlockingIOError:
            await asyncio.sleep(0.001)
            continue
        if not piece:
            return bytes(data)
        data += piece


def state(transport):
    names = "is_closing", "is_reading", "can_write_eof", "get_write_buffer_size", "get_protocol"
    found = {name: getattr(transport, name)() for name in names if name_of_both(transport, name)}
    found["get_protocol"] = type(found["get_protocol"]).__name__
    return plain(repr(transport)), found


def name_of_both(transport, name):
    if name == "is_reading":  # of a writer it is not implemented; up to 3.10 of none
        return sys.version_info >= (3, 11) and not hasattr(transport, "get_write_buffer_size")
    return hasattr(transport, name)


#: Of a test of both.
METHODS = pytest.mark.parametrize("method", ["connect_read_pipe", "connect_write_pipe"])
