"""Random programs on a transport and its peer, run on both loops: every call, answer, state and report is the same.

What a program does is drawn from its seed, so a failure is repeated by its number. From 3.14 on only: asyncio's
transports before had faults of their own in these programs (writelines after the end, an end told twice).
"""

import asyncio
import random
import socket
import sys

import pytest
from differential import describe, plain, same
from peers import BufferedRecorder, Recorder, reset, tcp_pair, turns

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio's own faults"),
]

PROGRAMS = 20

#: What a protocol does from inside its callbacks, if anything.
INSIDE = [
    *[None] * 4,
    "close in data",
    "abort in data",
    "pause in data",
    "raise in data",
    "set_protocol in data",
    "write in eof",
    "close in eof",
    "raise in eof",
    "eof in made",
    "resume in made",
    "abort in pause",
    "close in resume",
    "write in lost",
]

OURS = ["write"] * 3 + ["lines", "pause", "resume", "eof", "close", "abort", "limits", "big", "bad", "ask"]
THEIRS = ["send"] * 2 + ["read"] * 2 + ["shut", "reset", "end"]
LIMITS = [(None, None), (0, 0), (100, 10), (10, None), (1, 2), (1 << 30,)]


def protocol_class(chance, events):
    inside = chance.choice(INSIDE)
    keeps = chance.random() < 0.3

    class Random(chance.choice([Recorder, BufferedRecorder])):
        keeps_open = keeps

        def connection_made(self, transport):
            super().connection_made(transport)
            events.append("made")
            if inside == "eof in made":
                transport.write_eof()
            elif inside == "resume in made":
                transport.pause_reading()
                transport.resume_reading()

        def data_received(self, data):
            super().data_received(data)
            events.append(("data", len(data)))
            if inside == "raise in data":
                raise ZeroDivisionError("data")
            if inside == "set_protocol in data":
                other = Random()
                other.transport = self.transport
                self.transport.set_protocol(other)
            elif inside in ("close in data", "abort in data"):
                getattr(self.transport, inside.split()[0])()
            elif inside == "pause in data":
                self.transport.pause_reading()

        def eof_received(self):
            events.append("eof")
            if inside == "raise in eof":
                raise ZeroDivisionError("eof")
            if inside == "write in eof":
                self.transport.write(b"eof!")
            elif inside == "close in eof":
                self.transport.close()
            return super().eof_received()

        def pause_writing(self):
            events.append("pause")
            if inside == "abort in pause":
                self.transport.abort()

        def resume_writing(self):
            events.append("resume")
            if inside == "close in resume":
                self.transport.close()

        def connection_lost(self, exception):
            events.append(("lost", describe(exception)))
            if inside == "write in lost":
                self.transport.write(b"x")

    return Random


def act(chance, transport, what):
    """One call of the transport."""
    if what == "write":
        return transport.write(chance.choice([b"", b"a", bytearray(b"bb"), memoryview(b"ccc")]))
    if what == "lines":
        return transport.writelines([b"x"] * chance.randrange(1, 4))
    if what == "big":
        return transport.write(bytes(12 << 20))
    if what == "bad":
        return transport.write(chance.choice(["s", None, 5]))
    if what == "limits":
        return transport.set_write_buffer_limits(*chance.choice(LIMITS))
    if what == "ask":
        return transport.get_write_buffer_limits(), transport.can_write_eof()
    names = {"pause": "pause_reading", "resume": "resume_reading", "eof": "write_eof"}
    return getattr(transport, names.get(what, what))()


async def read_all(peer, transport):
    """Read until nothing is queued on the other side; the count, or what is the end as -1 - count."""
    count = 0
    for _ in range(400):
        try:
            data = peer.recv(1 << 20)
        except BlockingIOError:
            if not transport.get_write_buffer_size():
                return count
            await asyncio.sleep(0.0005)
        else:
            if not data:
                return -1 - count
            count += len(data)
    raise AssertionError("it never ends")


def act_as_peer(chance, peer, what):
    if what == "send":
        return peer.send(b"z" * chance.choice([1, 10, 1000]))
    if what == "shut":
        return peer.shutdown(socket.SHUT_WR)
    return reset(peer) if what == "reset" else peer.close()


async def program(seed):
    chance = random.Random(seed)
    events = []
    here, peer = tcp_pair()
    peer.setblocking(False)
    make = protocol_class(chance, events)
    transport, _ = await asyncio.get_running_loop().create_connection(make, sock=here)
    await turns(3)
    for _ in range(chance.randrange(3, 14)):
        what = chance.choice(OURS + THEIRS)
        try:
            if what in OURS:
                result = act(chance, transport, what)
            elif peer.fileno() < 0:
                continue
            elif what == "read":
                result = await read_all(peer, transport)
            else:
                result = act_as_peer(chance, peer, what)
        except Exception as error:
            # A TypeError's words are of whoever refused.
            result = type(error).__name__, "" if type(error) is TypeError else plain(str(error))
        events.append((what, result))
        if chance.random() < 0.8:
            await turns(6)
            await asyncio.sleep(0.001)
            await turns(6)
        events.append((transport.is_closing(), transport.is_reading(), transport.get_write_buffer_size() > 0))
    transport.abort()
    await turns(6)
    await asyncio.sleep(0.001)
    peer.close()
    return events


@pytest.mark.parametrize("first", range(0, 200, PROGRAMS))
def test_random_programs(first):
    for seed in range(first, first + PROGRAMS):
        same(program, seed)
