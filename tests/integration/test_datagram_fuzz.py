"""Random programs on a datagram transport and its peer, run on both loops: every call, answer, state and report is the same.

What a program does is drawn from its seed, so a failure is repeated by its number. From 3.14 on only: 3.13 counts queued
datagrams wrongly, and before there are no empty ones.
"""

import asyncio
import random
import sys

import pytest
from datagrams import DatagramRecorder, settle, unix_pair
from differential import describe, plain, same

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio's own faults"),
]

PROGRAMS = 25
STEPS = 30

INSIDE = [*[None] * 4, "close", "abort", "pause", "raise", "send", "set_protocol", "resume"]
WHERE = ["connection_made", "datagram_received", "error_received", "pause_writing", "resume_writing", "connection_lost"]
OURS = ["send"] * 4 + ["burst"] * 2 + ["pause", "resume", "limits", "ask", "empty", "large", "bad", "close", "abort"]
THEIRS = ["there"] * 4 + ["take"] * 3 + ["gone"]
LIMITS = [(None, None), (0, 0), (3000, 100), (10, None), (1 << 30,), (1, 2)]


def protocol_class(chance):
    inside, where = chance.choice(INSIDE), chance.choice(WHERE)

    class Random(DatagramRecorder):
        pass

    def method(self, *args):
        getattr(DatagramRecorder, where)(self, *args)
        if inside == "raise":
            raise ZeroDivisionError(where)
        if self.lost.done() or inside is None:
            return
        if inside == "send":
            if len(self.calls) < 20:
                self.transport.sendto(b"from inside")
        elif inside == "set_protocol":
            self.transport.set_protocol(self)
        else:
            names = {"pause": "pause_reading", "resume": "resume_reading"}
            getattr(self.transport, names.get(inside, inside))()

    setattr(Random, where, method)
    return Random


def call(events, name, function, *args):
    try:
        events.append((name, plain(repr(function(*args)))))
    except Exception as error:
        events.append((name, describe(error)))


async def rest(transport, protocol):
    """Until nothing happens any more: how often the loop polls is its own affair, and each poll may send one of many."""
    before, same_again = None, 0
    while same_again < 2:
        await settle()
        now = transport.get_write_buffer_size(), len(protocol.calls), len(protocol.datagrams)
        before, same_again = now, same_again + 1 if now == before else 0


async def program(seed):
    chance = random.Random(seed)
    events = []
    factory = protocol_class(chance)
    with unix_pair() as (here, there):
        to = there.getsockname()
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(factory, sock=here)
        there.setblocking(False)
        for step in range(STEPS):
            what = chance.choice(OURS + THEIRS) if chance.random() < 0.97 else "gone"
            size = chance.choice([0, 1, 100, 3000])
            # Without an address of its own asyncio's transport fails from inside after its end; and what an abort has dropped
            # it goes on counting.
            if protocol.lost.done() and what in ("send", "burst", "empty", "large", "bad", "close", "abort"):
                continue
            if transport._conn_lost and what == "limits":
                continue
            if what in ("send", "empty", "large"):
                data = bytes({"send": size, "empty": 0, "large": 1 << 20}[what])
                call(events, what, transport.sendto, chance.choice([data, bytearray(data), memoryview(data)]))
            elif what == "burst":
                for i in range(chance.randrange(40)):
                    if not protocol.lost.done():
                        call(events, what, transport.sendto, b"%d " % i + bytes(900))
            elif what == "bad":
                call(events, what, transport.sendto, chance.choice(["text", None, 5]), to)
            elif what in ("pause", "resume"):
                call(events, what, getattr(transport, f"{what}_reading"))
            elif what == "limits":
                call(events, what, transport.set_write_buffer_limits, *chance.choice(LIMITS))
            elif what in ("close", "abort"):
                if chance.random() < 0.3:
                    call(events, what, getattr(transport, what))
            elif what == "there":
                call(events, what, there.send, b"%d" % step + bytes(size))
            elif what == "take":
                for _ in range(chance.choice([1, 5, 100])):
                    call(events, what, there.recv, 1 << 17)
            elif what == "gone" and chance.random() < 0.1:
                there.close()
            # asyncio leaves the count at 0 where close() has waited for the queue.
            lost = None if protocol.lost.done() else transport._conn_lost
            asked = (transport.is_closing(), transport.is_reading(), lost, protocol.calls[:])
            events.append((asked, len(protocol.datagrams)))
            if chance.random() < 0.6:
                await rest(transport, protocol)
                size = 0 if transport._conn_lost else transport.get_write_buffer_size()
                state = (size, protocol.calls[:], [data for data, _ in protocol.datagrams])
                events.append((transport.is_closing(), state))
        if not protocol.lost.done():
            transport.abort()
        await rest(transport, protocol)
        events.append((protocol.calls, describe(protocol.lost.result()) if protocol.lost.done() else "no end"))
        events.append((here.fileno(), transport.get_protocol()))
    return events


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_a_random_program(seed):
    same(program, seed)
