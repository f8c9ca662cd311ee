"""Inner names of asyncio's selector loop, and what programs get when they look."""

import asyncio
import socket
import threading

import pytest
from differential import same
from peers import close, connect


def test_the_selector_shows_what_is_watched():
    async def scenario():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            loop.add_reader(here, print)
            loop.add_writer(here.fileno(), print)
            both = loop._selector.get_key(here)
            loop.remove_writer(here)
            one = loop._selector.get_map()[here.fileno()]
            seen = [both.fd == one.fd == here.fileno(), both.events, one.events, one.fileobj is here]
            seen += [[handle is None for handle in key.data] for key in (both, one)]
            seen.append(isinstance(one.data[0], asyncio.Handle))
            loop.remove_reader(here)
            with pytest.raises(KeyError):
                loop._selector.get_key(here)
        protocol, peer = await connect()
        transports = loop._transports
        seen.append([transports[protocol.transport._sock_fd] is protocol.transport, len(transports)])
        await close(protocol, peer)
        seen.append(type(loop._clock_resolution).__name__)
        loop._clock_resolution = 0.5
        woken = []
        loop.call_later(0.3, woken.append, loop.time())
        loop.call_soon(lambda: None)
        while not woken:
            await asyncio.sleep(0)
        seen.append(loop.time() - woken[0] < 0.2)
        return seen

    same(scenario)


def test_writing_to_the_loop_wakes_it(new_loop):
    loop = new_loop()
    try:

        async def main():
            before = loop._csock.fileno(), loop._ssock.fileno()
            assert min(before) > 2
            threading.Timer(0.05, loop._write_to_self).start()
            threading.Timer(0.1, loop._csock.send, [b"\0"]).start()
            await asyncio.sleep(0.2)

        loop.run_until_complete(main())
    finally:
        loop.close()
    assert loop._csock is None and loop._ssock is None
