"""Sending files: connections that end in the middle, files that change, cancellation at each point, many at once."""

import asyncio
import builtins
import contextlib
import io
import os
import socket

import pytest
from differential import outcome, same
from files import CONTENT, Collector, begun, call, opened
from peers import TOO_MUCH, Recorder, connect, reset, tcp_pair, turns
from test_cancellation import at_every_point


@pytest.mark.parametrize("target", ["socket", "transport"])
@pytest.mark.parametrize("way", ["reset", "close"])
def test_the_peer_ends_in_the_middle(large_file, target, way):
    async def scenario():
        loop = asyncio.get_running_loop()
        protocol = None
        if target == "socket":
            here, there = tcp_pair()
            here.setblocking(False)
        else:
            protocol, there = await connect()
        with large_file.open("rb") as file:
            if protocol is None:
                sending = asyncio.ensure_future(outcome(call(loop.sock_sendfile, here, file)))
            else:
                sending = asyncio.ensure_future(outcome(call(loop.sendfile, protocol.transport, file)))
            await begun(there)
            await asyncio.sleep(0.05)
            reset(there) if way == "reset" else there.close()
            result = await sending
            where = file.tell()
            assert 0 < where < TOO_MUCH
        if protocol is None:
            here.close()
        else:
            protocol.transport.abort()
            await protocol.lost
        return result[0], result[1][0]

    kind, error = same(scenario)
    assert kind == "raises"
    assert issubclass(getattr(builtins, error), ConnectionError)


@pytest.mark.aioxide_only  # asyncio waits for ever for a socket that is closed
@pytest.mark.parametrize("way", ["abort", "close"])
@pytest.mark.parametrize("queued", [0, 8 << 20])
def test_this_side_ends_in_the_middle(run, large_file, way, queued, is_ours):
    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        if queued:
            protocol.transport.write(bytes(queued))
        with large_file.open("rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(protocol.transport, file))
            await begun(peer)
            await asyncio.sleep(0.05)
            getattr(protocol.transport, way)()
            there = Collector(peer)
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(sending, 10)
        await protocol.lost
        await there.all()

    run(main)


def test_a_close_while_the_fallback_waits(run):
    """The file is left behind the last byte that went, whatever the error is."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        file = io.BytesIO(bytes(TOO_MUCH))
        sending = asyncio.ensure_future(loop.sendfile(protocol.transport, file))
        await begun(peer)
        while not protocol.transport.get_write_buffer_size():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        protocol.transport.close()
        there = Collector(peer)
        with pytest.raises((ConnectionError, AttributeError)):  # asyncio has lost its loop
            await asyncio.wait_for(sending, 10)
        await protocol.lost
        assert 0 < len(await there.all()) == file.tell() < TOO_MUCH

    run(main)


@pytest.mark.parametrize("target", ["socket", "transport"])
def test_a_file_that_shrinks_and_one_that_grows(tmp_path, target):
    async def scenario():
        loop, seen = asyncio.get_running_loop(), []
        for change in (3 << 20, 32 << 20):
            changing = tmp_path / "changing"
            with changing.open("wb") as file:
                file.truncate(TOO_MUCH)
            protocol, peer = await connect()
            with changing.open("rb") as file:
                if target == "socket":
                    here, there = tcp_pair()
                    here.setblocking(False)
                    sending = asyncio.ensure_future(loop.sock_sendfile(here, file))
                else:
                    here, there = None, peer
                    sending = asyncio.ensure_future(loop.sendfile(protocol.transport, file))
                await begun(there)
                os.truncate(changing, change)
                there = Collector(there)
                sent = await sending
                seen.append((sent >= min(change, TOO_MUCH) or sent > 3 << 20, file.tell() == sent))
            if here is not None:
                here.close()
            protocol.transport.close()
            await protocol.lost
            data = await there.all()
            assert len(data) == sent
            peer.close()
        return seen

    assert same(scenario) == [(True, True), (True, True)]


def test_one_at_a_time(run, large_file, is_ours):
    """The second is refused, the first goes on."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        with large_file.open("rb") as file, large_file.open("rb") as other:
            first = asyncio.ensure_future(loop.sendfile(protocol.transport, file))
            await turns(3)
            with pytest.raises(RuntimeError if is_ours else KeyError) as refused:
                await loop.sendfile(protocol.transport, other)
            if is_ours:
                assert str(refused.value) == "Empty waiter is already set"
            there = Collector(peer)
            assert await first == TOO_MUCH
            assert other.tell() == 0
        protocol.transport.close()
        await protocol.lost
        assert len(await there.all()) == TOO_MUCH

    run(main)


def test_add_writer_is_refused_before_and_after(run, sent_file):
    """The descriptor is the transport's; only while the file is sent it counts as free."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        there = Collector(peer)
        number = protocol.transport.get_extra_info("socket").fileno()
        with sent_file.open("rb") as file:
            await loop.sendfile(protocol.transport, file)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_writer(number, print)
        protocol.transport.close()
        await protocol.lost
        assert await there.all() == CONTENT

    run(main)


# Cancellation.


@pytest.mark.parametrize("fallback", [False, True])
def test_sock_sendfile_cancelled_at_each_point(run, large_file, fallback):
    """It waits for a reader that never reads; then the socket works as before."""

    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            file = io.BytesIO(bytes(1 << 22)) if fallback else large_file.open("rb")
            drained = 0

            async def make():
                nonlocal drained
                file.seek(0)
                loop.call_later(0.02, drain)
                return await loop.sock_sendfile(here, file)

            def drain():
                nonlocal drained
                there.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while piece := there.recv(1 << 20):
                        drained += len(piece)
                if not finished:
                    loop.call_later(0.001, drain)

            finished = []

            async def undo(sent):
                assert sent == (1 << 22 if fallback else TOO_MUCH)

            task = asyncio.ensure_future(make())
            await asyncio.sleep(0.005)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await turns(3)
            assert here.fileno() not in loop._selector.get_map()
            # The position is asyncio's: left alone by the kernel's way, set by the fallback.
            assert file.tell() % (1 << 18) == 0
            finished.append(True)
            await asyncio.sleep(0.03)
            with contextlib.suppress(BlockingIOError):
                while there.recv(1 << 20):
                    pass
            await loop.sock_sendall(here, b"again")
            assert there.recv(100) == b"again"
            await loop.shutdown_default_executor()
            file.close()

    run(main)


@pytest.mark.aioxide_only  # one that is cancelled while the queue drains leaves asyncio's transport unusable
@pytest.mark.parametrize("kind", ["file", "bytes"])
@pytest.mark.parametrize("queued", [0, 8 << 20])
def test_sendfile_cancelled_at_each_point(run, large_file, kind, queued):
    """After each the transport reads and writes as before."""

    async def main():
        loop = asyncio.get_running_loop()
        current = []

        async def make():
            protocol, peer = await connect()
            there = Collector(peer)
            current[:] = [protocol, there]
            protocol.transport.write(bytes(queued))
            file = large_file.open("rb") if kind == "file" else io.BytesIO(bytes(1 << 18))
            try:
                return await loop.sendfile(protocol.transport, file)
            finally:
                file.close()
                await end()

        async def end():
            protocol, there = current
            transport = protocol.transport
            assert transport.is_reading()
            assert transport.get_protocol() is protocol
            transport.write(b"after")
            there.sock.send(b"back")
            loop.call_later(0.05, transport.close)

        async def undo(sent):
            protocol, there = current
            await protocol.lost
            data = await there.all()
            assert len(data) == queued + sent + 5
            assert data.endswith(b"after")
            assert protocol.received == b"back"

        async def whole():
            try:
                return await make()
            except asyncio.CancelledError:
                protocol, there = current
                ending = loop.create_task(undo_cancelled(protocol, there))
                await asyncio.shield(ending)
                raise

        async def undo_cancelled(protocol, there):
            await protocol.lost
            data = await there.all()
            assert data.endswith(b"after")
            assert protocol.received == b"back"

        for point in range(4, 40, 3):
            task = asyncio.ensure_future(whole())
            # When the transport is there.
            current.clear()
            while not current:
                await asyncio.sleep(0)
            await turns(point - 4)
            task.cancel()
            try:
                await undo(await task)
            except asyncio.CancelledError:
                continue
        await undo(await make())

    run(main)


@pytest.mark.aioxide_only  # asyncio leaves sockets of a cancelled create_connection to the garbage collector
@pytest.mark.parametrize("kind", ["file", "bytes"])
@pytest.mark.parametrize("target", ["socket", "transport"])
def test_points_of_cancellation_are_enumerated(run, sent_file, kind, target):
    """Each suspension of `sock_sendfile` and `sendfile` to the end; nothing is left behind."""

    async def main():
        loop = asyncio.get_running_loop()

        async def make():
            here, there = tcp_pair()
            here.setblocking(False)
            transport = None
            with opened(kind, sent_file) as file:
                try:
                    if target == "socket":
                        return await loop.sock_sendfile(here, file, 0, 10_000)
                    transport, protocol = await loop.create_connection(Recorder, sock=here)
                    sent = await loop.sendfile(transport, file, 0, 10_000)
                    assert transport.is_reading() and transport.get_protocol() is protocol
                    return sent
                finally:
                    if transport is not None:
                        transport.abort()
                    elif target == "socket":
                        here.close()
                    there.close()

        async def undo(sent):
            assert sent == 10_000

        await at_every_point(make, undo, least=0 if kind == "file" and target == "socket" else 1)

    run(main)


def test_many_at_once(run, sent_file):
    """A hundred connections, each with a file of its own, to one peer that reads slowly."""

    async def main():
        loop = asyncio.get_running_loop()
        pairs = [await connect() for _ in range(100)]
        files = [sent_file.open("rb") for _ in pairs]
        collectors = [Collector(peer) for _, peer in pairs]
        sent = await asyncio.gather(
            *(loop.sendfile(protocol.transport, file) for (protocol, _), file in zip(pairs, files))
        )
        assert sent == [len(CONTENT)] * 100
        assert [file.tell() for file in files] == sent
        for file in files:
            file.close()
        for protocol, _ in pairs:
            protocol.transport.close()
            await protocol.lost
        for collector in collectors:
            assert await collector.all() == CONTENT

    run(main)


def test_the_loop_has_its_turn_after_each_piece(run, large_file):
    """A reader that is always faster does not keep other callbacks waiting."""

    async def main():
        loop = asyncio.get_running_loop()
        here, there = tcp_pair()
        here.setblocking(False)
        collector = Collector(there)
        ticks, is_over = 0, False

        def tick():
            nonlocal ticks
            ticks += 1
            if not is_over:
                loop.call_soon(tick)

        loop.call_soon(tick)
        with large_file.open("rb") as file:
            assert await loop.sock_sendfile(here, file) == TOO_MUCH
        assert ticks > 2
        is_over = True
        here.close()
        assert len(await collector.all()) == TOO_MUCH

    run(main)
