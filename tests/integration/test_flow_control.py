"""Flow control: when a protocol is told to pause writing and to go on, and what it may do in there."""

import asyncio

import pytest
from peers import TOO_MUCH, Recorder, close, connect, receive_all, reset, tcp_pair

WRITE_LIMIT = 64 * 1024


def limits(protocol):
    return protocol.transport.get_write_buffer_limits()


def flow(protocol):
    return [call for call in protocol.calls if call in ("pause", "resume")]


async def fill(protocol):
    """Until the kernel takes no more, so that what is written next is queued whole."""
    while protocol.transport.get_write_buffer_size() == 0:
        protocol.transport.write(bytes(1 << 20))


async def drain(protocol, peer, count):
    peer.setblocking(False)
    return await receive_all(peer, count)


def test_the_limits_are_asyncios(run):
    async def main():
        protocol, peer = await connect()
        change = protocol.transport.set_write_buffer_limits
        assert limits(protocol) == (WRITE_LIMIT // 4, WRITE_LIMIT)
        for given, expected in [
            ({"high": 100}, (25, 100)),
            ({"low": 100}, (100, 400)),
            ({"high": 10, "low": 10}, (10, 10)),
            ({"high": 0}, (0, 0)),
            ({"high": 0, "low": 0}, (0, 0)),
            ({"high": 7}, (1, 7)),
            ({}, (WRITE_LIMIT // 4, WRITE_LIMIT)),
            ({"high": None, "low": None}, (WRITE_LIMIT // 4, WRITE_LIMIT)),
        ]:
            change(**given)
            assert limits(protocol) == expected
        change(30, 20)
        assert limits(protocol) == (20, 30)
        for given in ({"high": 10, "low": 11}, {"high": -1}, {"low": -1}, {"high": 1, "low": -1}):
            with pytest.raises(ValueError, match=r"high \(-?\d+\) must be >= low \(-?\d+\) must be >= 0"):
                change(**given)
        assert limits(protocol) == (20, 30)
        with pytest.raises(TypeError):
            change("many")
        await close(protocol, peer)

    run(main)


def test_the_protocol_pauses_once_and_resumes_once(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.write(bytes(TOO_MUCH))
        assert flow(protocol) == ["pause"]
        protocol.transport.write(b"more")
        assert flow(protocol) == ["pause"]
        assert WRITE_LIMIT < protocol.transport.get_write_buffer_size() <= TOO_MUCH + 4
        await drain(protocol, peer, TOO_MUCH + 4)
        await protocol.until(lambda: len(flow(protocol)) == 2)
        assert flow(protocol) == ["pause", "resume"]
        assert protocol.transport.get_write_buffer_size() == 0
        await close(protocol, peer)

    run(main)


def test_a_queue_at_its_limit_does_not_pause_and_one_byte_more_does(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.set_write_buffer_limits(high=1 << 30)
        await fill(protocol)
        size = protocol.transport.get_write_buffer_size()
        protocol.transport.set_write_buffer_limits(high=size + 10)
        protocol.transport.write(bytes(10))
        assert flow(protocol) == []
        protocol.transport.write(bytes(1))
        assert flow(protocol) == ["pause"]
        await close(protocol, peer)

    run(main)


def test_it_resumes_when_the_low_limit_is_reached(run):
    low = TOO_MUCH // 2

    class Sizes(Recorder):
        def resume_writing(self):
            self.size = self.transport.get_write_buffer_size()
            super().resume_writing()

    async def main():
        protocol, peer = await connect(Sizes)
        protocol.transport.set_write_buffer_limits(high=low + 1, low=low)
        protocol.transport.write(bytes(TOO_MUCH))
        assert flow(protocol) == ["pause"]
        await drain(protocol, peer, TOO_MUCH)
        await protocol.until(lambda: "resume" in protocol.calls)
        assert protocol.size <= low
        await close(protocol, peer)

    run(main)


def test_a_limit_of_zero_pauses_for_whatever_is_queued(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.set_write_buffer_limits(high=0)
        protocol.transport.write(b"x")  # the kernel takes it
        assert flow(protocol) == []
        await fill(protocol)
        assert flow(protocol) == ["pause"]
        await close(protocol, peer)

    run(main)


@pytest.mark.aioxide_only  # asyncio does since 3.12.8 and 3.13.1 (gh-127529)
def test_writelines_pauses_too(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.writelines([bytes(TOO_MUCH // 2)] * 2)
        assert flow(protocol) == ["pause"]
        await drain(protocol, peer, TOO_MUCH)
        await protocol.until(lambda: len(flow(protocol)) == 2)
        await close(protocol, peer)

    run(main)


@pytest.mark.parametrize("ending", [pytest.param("abort", marks=pytest.mark.aioxide_only), "close"])
def test_a_connection_may_end_in_pause_writing(run, ending):
    class Ends(Recorder):
        def pause_writing(self):
            super().pause_writing()
            getattr(self.transport, ending)()

    async def main():
        protocol, peer = await connect(Ends)
        protocol.transport.write(bytes(TOO_MUCH))
        assert protocol.transport.is_closing()
        if ending == "close":
            await drain(protocol, peer, TOO_MUCH)
        else:
            assert protocol.transport.get_write_buffer_size() == 0
        assert await protocol.lost is None
        assert protocol.calls.count("lost") == 1
        peer.close()

    run(main)


@pytest.mark.aioxide_only
@pytest.mark.parametrize("ending", ["abort", "close"])
def test_a_connection_may_end_in_resume_writing(run, ending):
    class Ends(Recorder):
        def resume_writing(self):
            super().resume_writing()
            getattr(self.transport, ending)()

    async def main():
        protocol, peer = await connect(Ends)
        protocol.transport.write(bytes(TOO_MUCH))
        received = drain(protocol, peer, TOO_MUCH - WRITE_LIMIT)  # the rest may be lost by abort()
        await received
        assert await protocol.lost is None
        assert protocol.calls == ["made", "pause", "resume", "lost"]
        peer.close()

    run(main)


def test_a_protocol_may_write_in_pause_writing_and_in_resume_writing(run):
    class Talkative(Recorder):
        def pause_writing(self):
            super().pause_writing()
            self.transport.write(b"pause!")

        def resume_writing(self):
            super().resume_writing()
            if flow(self).count("resume") == 1:
                self.transport.write(bytes(TOO_MUCH))

    async def main():
        protocol, peer = await connect(Talkative)
        protocol.transport.write(bytes(TOO_MUCH))
        data = await drain(protocol, peer, 2 * TOO_MUCH + 12)
        assert data.count(b"pause!") == 2
        assert data[TOO_MUCH : TOO_MUCH + 6] == b"pause!"
        await protocol.until(lambda: len(flow(protocol)) == 4)
        assert flow(protocol) == ["pause", "resume"] * 2
        await close(protocol, peer)

    run(main)


def test_a_lower_limit_pauses_a_queue_that_is_there(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.set_write_buffer_limits(high=1 << 30)
        protocol.transport.write(bytes(TOO_MUCH))
        assert flow(protocol) == []
        protocol.transport.set_write_buffer_limits(high=1)
        assert flow(protocol) == ["pause"]
        await close(protocol, peer)

    run(main)


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
def test_what_flow_control_raises_is_reported_and_the_data_still_arrives(run, reports, method):
    def fail(self):
        Recorder.note(self, method)
        raise ZeroDivisionError

    async def main():
        protocol, peer = await connect(type("Fails", (Recorder,), {method: fail}))
        protocol.transport.write(bytes(TOO_MUCH))
        await drain(protocol, peer, TOO_MUCH)
        await protocol.until(lambda: protocol.transport.get_write_buffer_size() == 0 and method in protocol.calls)
        assert not protocol.transport.is_closing()
        await close(protocol, peer)
        (report,) = reports.take_whole()
        assert report.message == f"protocol.{method}() failed"
        assert report.exception is ZeroDivisionError
        assert report.others == ("protocol", "transport")

    run(main)


def test_drain_waits_for_the_reader(run):
    async def main():
        here, peer = tcp_pair()
        _, writer = await asyncio.open_connection(sock=here)
        writer.write(bytes(TOO_MUCH))
        waiting = asyncio.ensure_future(writer.drain())
        await asyncio.sleep(0)
        assert not waiting.done()
        peer.setblocking(False)
        await receive_all(peer, TOO_MUCH)
        await waiting
        writer.close()
        await writer.wait_closed()
        peer.close()

    run(main)


def test_drain_raises_when_the_connection_is_lost(run):
    async def main():
        here, peer = tcp_pair()
        _, writer = await asyncio.open_connection(sock=here)
        writer.write(bytes(TOO_MUCH))
        waiting = asyncio.ensure_future(writer.drain())
        await asyncio.sleep(0)
        reset(peer)
        with pytest.raises(ConnectionResetError):
            await waiting
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()

    run(main)
