"""What is made only when somebody looks: the dict of a transport, inner names of asyncio's selector loop."""

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


def test_addresses_are_those_of_the_start_and_asked_for_at_any_time():
    """Also when the connection is lost and the socket closed."""

    async def scenario():
        loop = asyncio.get_running_loop()
        seen = []

        class Asks(asyncio.Protocol):
            def __init__(self):
                self.lost = loop.create_future()

            def connection_made(self, transport):
                self.transport = transport

            def connection_lost(self, error):
                self.lost.set_result(transport_knows(self.transport))

        def transport_knows(transport):
            sock = transport.get_extra_info("socket")
            return [
                transport.get_extra_info("peername")[0],
                transport.get_extra_info("sockname")[0],
                transport.get_extra_info("nothing"),
                transport.get_extra_info("nothing", 5),
                type(sock).__name__,
                sock is transport.get_extra_info("socket"),
                sorted(transport._extra),
            ]

        made = []
        server = await loop.create_server(lambda: made.append(Asks()) or made[-1], "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        while not made:
            await asyncio.sleep(0)
        client.close()
        seen.append(await made[0].lost)
        transport = made[0].transport
        await asyncio.sleep(0)
        seen.append(transport_knows(transport))
        seen.append(transport.get_extra_info("socket").fileno())
        with pytest.raises(TypeError):
            transport.get_extra_info([])
        server.close()
        await server.wait_closed()
        return seen

    same(scenario)


@pytest.mark.parametrize("name", ["_selector", "_transports", "_csock", "_ssock", "_write_to_self", "_internal_fds"])
def test_a_mock_can_stand_in_the_place_of_an_inner_name(new_loop, name):
    loop = new_loop()
    own = object()
    original = getattr(loop, name)
    try:
        setattr(loop, name, own)
        assert getattr(loop, name) is own
    finally:
        setattr(loop, name, original)
        loop.close()
