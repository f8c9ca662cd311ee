"""Bad input, one by one: asyncio's exception and message, nothing leaked, never an abort.

Protocols that raise or answer nonsense, writing nonsense, descriptors closed behind the loop's back; for
callbacks and loops see `test_bad_loops.py`. `no_leaks` (through `run`) counts descriptors and threads.
"""

import asyncio
import logging
import re
import socket
import sys

import pytest
from peers import (
    TOO_MUCH,
    BufferedRecorder,
    Recorder,
    close,
    connect,
    raises,
    receive_exactly,
    tcp_pair,
    turns,
)

# --- protocols that raise ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "base", "message"),
    [
        ("data_received", Recorder, "Fatal error: protocol.data_received() call failed."),
        ("get_buffer", BufferedRecorder, "Fatal error: protocol.get_buffer() call failed."),
        ("buffer_updated", BufferedRecorder, "Fatal error: protocol.buffer_updated() call failed."),
    ],
)
def test_a_protocol_that_raises_when_data_arrives_loses_its_connection(run, reports, name, base, message):
    async def main():
        protocol, peer = await connect(raises(name, base=base))
        peer.sendall(b"x")
        exception = await protocol.lost
        assert type(exception) is ZeroDivisionError and str(exception) == "from the protocol"
        assert protocol.calls == ["made", name, "lost"]
        (report,) = reports.take_whole()
        assert (report.message, report.exception) == (message, ZeroDivisionError)
        assert report.others == ("protocol", "transport")
        peer.close()

    run(main)


def test_eof_received_that_raises_loses_the_connection(run, reports):
    async def main():
        for base in (Recorder, BufferedRecorder):
            protocol, peer = await connect(raises("eof_received", base=base))
            peer.shutdown(socket.SHUT_WR)
            assert type(await protocol.lost) is ZeroDivisionError
            assert reports.take() == [("Fatal error: protocol.eof_received() call failed.", ZeroDivisionError)]
            peer.close()

    run(main)


def test_an_answer_of_eof_received_that_cannot_be_judged(run, reports):
    class Undecided:
        def __bool__(self):
            raise ZeroDivisionError

    class Answers(Recorder):
        def eof_received(self):
            super().eof_received()
            self.transport.pause_reading()
            return Undecided()

    async def main():
        protocol, peer = await connect(Answers)
        peer.shutdown(socket.SHUT_WR)
        await protocol.until(lambda: "eof" in protocol.calls)
        await turns(3)
        ((message, exception),) = reports.take()
        assert message.startswith("Exception in callback ") and exception is ZeroDivisionError
        await close(protocol, peer)

    run(main)


def test_connection_made_that_raises_is_reported_and_the_connection_lives(run, reports):
    async def main():
        protocol, peer = await connect(raises("connection_made"))
        ((message, exception),) = reports.take()
        assert re.match(r"Exception in callback raises\.<locals>\.method\(", message), message
        assert exception is ZeroDivisionError
        assert protocol.transport is None
        peer.close()
        assert await protocol.lost is None

    run(main)


def test_connection_lost_that_raises_is_reported_and_the_socket_closed(run, reports):
    async def main():
        protocol, peer = await connect(raises("connection_lost"))
        protocol.transport.close()
        await protocol.until(lambda: "connection_lost" in protocol.calls)
        await turns(1)
        ((message, exception),) = reports.take()
        assert re.match(r"Exception in callback \w*SocketTransport\._call_connection_lost\(", message), message
        assert exception is ZeroDivisionError
        assert peer.recv(1) == b""
        peer.close()

    run(main)


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("connection_made", Recorder),
        ("data_received", Recorder),
        ("eof_received", Recorder),
        ("get_buffer", BufferedRecorder),
        ("buffer_updated", BufferedRecorder),
        ("pause_writing", Recorder),
        ("connection_lost", Recorder),
    ],
)
def test_an_exit_raised_by_a_protocol_ends_the_run_and_the_loop_goes_on_later(new_loop, name, base, exception):
    loop = new_loop()
    here, peer = tcp_pair()
    made = []

    class Exits(base):
        def __init__(self):
            super().__init__()
            made.append(self)

        def connection_made(self, transport):
            super().connection_made(transport)
            if name == "pause_writing":
                transport.write(bytes(TOO_MUCH))
            elif name == "connection_lost":
                transport.close()

    def method(self, *args):
        answer = getattr(super(Exits, self), name)(*args)
        if "raised" not in self.calls:
            self.note("raised")
            raise exception("from the protocol")
        return answer

    inner = method if name != "connection_made" else None
    if inner is None:

        def inner(self, transport):
            base.connection_made(self, transport)
            self.note("raised")
            raise exception("from the protocol")

    setattr(Exits, name, inner)

    async def main():
        await loop.create_connection(Exits, sock=here)
        peer.sendall(b"x")
        peer.shutdown(socket.SHUT_WR)
        await loop.create_future()

    task = loop.create_task(main())
    with pytest.raises(exception, match="from the protocol"):
        loop.run_until_complete(task)
    assert not loop.is_running() and not task.done()

    async def end():
        task.cancel()
        await asyncio.wait([task])
        (protocol,) = made
        protocol.transport.abort()
        await protocol.lost
        assert protocol.calls.count("lost") == 1

    loop.run_until_complete(end())
    peer.close()


# --- protocols that answer nonsense --------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message", "exception"),
    [
        (bytearray(), "Fatal error: protocol.get_buffer() call failed.", RuntimeError),
        (None, "Fatal error: protocol.get_buffer() call failed.", TypeError),
        (3, "Fatal error: protocol.get_buffer() call failed.", TypeError),
        (b"constant", "Fatal read error on socket transport", TypeError),
        ("text", "Fatal read error on socket transport", TypeError),
        ([1], "Fatal read error on socket transport", TypeError),
        (memoryview(b"constant"), "Fatal read error on socket transport", TypeError),
        (memoryview(bytearray(8))[::2], "Fatal read error on socket transport", TypeError),
    ],
)
def test_get_buffer_with_a_useless_answer_loses_the_connection(run, reports, answer, message, exception):
    class Answers(BufferedRecorder):
        def get_buffer(self, sizehint):
            return answer

    async def main():
        protocol, peer = await connect(Answers)
        peer.sendall(b"x")
        lost = await protocol.lost
        assert type(lost) is exception
        (report,) = reports.take_whole()
        assert (report.message, report.exception) == (message, exception)
        if exception is RuntimeError:
            assert str(lost) == "get_buffer() returned an empty buffer"
        elif "read error" in message:
            name = type(answer).__name__
            assert str(lost) == f"recv_into() argument 1 must be read-write bytes-like object, not {name}"
        peer.close()

    run(main)


@pytest.mark.aioxide_only  # asyncio raises the same, and leaves the socket to the garbage collector
@pytest.mark.parametrize("protocol", [None, 1, object()])
def test_what_is_no_protocol_cannot_be_connected(run, protocol):
    async def main():
        here, there = tcp_pair()
        with pytest.raises(AttributeError, match="has no attribute 'connection_made'"):
            await asyncio.get_running_loop().create_connection(lambda: protocol, sock=here)
        assert here.fileno() == -1 and there.recv(1) == b""
        there.close()

    run(main)


@pytest.mark.aioxide_only
def test_a_factory_that_raises_costs_the_socket_it_was_given(run):
    async def main():
        here, there = tcp_pair()
        with pytest.raises(ZeroDivisionError):
            await asyncio.get_running_loop().create_connection(lambda: 1 / 0, sock=here)
        assert here.fileno() == -1 and there.recv(1) == b""
        there.close()

    run(main)


def test_a_protocol_without_data_received(run, reports):
    class Deaf(asyncio.BaseProtocol):
        def __init__(self):
            self.lost = asyncio.get_running_loop().create_future()

        def connection_lost(self, exception):
            self.lost.set_result(exception)

    async def main():
        protocol, peer = await connect(Deaf)
        peer.sendall(b"x")
        exception = await protocol.lost
        assert str(exception) == "'Deaf' object has no attribute 'data_received'"
        assert reports.take() == [("Fatal error: protocol.data_received() call failed.", AttributeError)]
        peer.close()

    run(main)


def test_set_protocol_with_nonsense(run, reports):
    async def main():
        for nonsense in (None, 1, Recorder):
            protocol, peer = await connect()
            protocol.transport.set_protocol(nonsense)
            assert protocol.transport.get_protocol() is nonsense
            peer.sendall(b"x")
            peer.setblocking(False)
            try:
                assert await protocol.loop.sock_recv(peer, 1) == b""
            except ConnectionResetError:
                pass
            await turns(2)
            kinds = [exception for _, exception in reports.take()]
            assert kinds and set(kinds) <= {AttributeError, TypeError}
            peer.close()

    run(main)


# --- what a protocol may do while it is called ---------------------------------------------------


@pytest.mark.parametrize("ending", ["close", "abort"])
@pytest.mark.parametrize(
    ("base", "name"),
    [
        (Recorder, "data_received"),
        (BufferedRecorder, "get_buffer"),
        (BufferedRecorder, "buffer_updated"),
        (Recorder, "eof_received"),
        (Recorder, "connection_lost"),
    ],
)
def test_a_connection_may_end_in_any_call(run, base, name, ending):
    class Ends(base):
        pass

    def method(self, *args):
        getattr(self.transport, ending)()
        return getattr(base, name)(self, *args)

    setattr(Ends, name, method)

    async def main():
        protocol, peer = await connect(Ends)
        peer.sendall(b"x" * 100)
        if name in ("eof_received", "connection_lost"):
            peer.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        assert protocol.calls.count("lost") == 1
        await turns(3)
        assert "closed" in repr(protocol.transport)
        peer.close()

    run(main)


def test_closing_and_then_raising_in_data_received_is_lost_once(run, reports):
    class Both(Recorder):
        def data_received(self, data):
            self.transport.close()
            raise ZeroDivisionError

    async def main():
        protocol, peer = await connect(Both)
        peer.sendall(b"x")
        assert await protocol.lost is None  # close() was first
        await turns(2)
        assert protocol.calls == ["made", "lost"]
        assert reports.take() == [("Fatal error: protocol.data_received() call failed.", ZeroDivisionError)]
        peer.close()

    run(main)


def test_a_loop_that_is_stopped_in_data_received_goes_on_later(new_loop):
    loop = new_loop()

    class Stops(Recorder):
        def data_received(self, data):
            super().data_received(data)
            loop.stop()

    protocol, peer = loop.run_until_complete(connect(Stops))
    for count in (1, 2, 3):
        peer.sendall(b"x")
        loop.run_forever()
        assert len(protocol.received) == count
    loop.run_until_complete(close(protocol, peer))


def test_running_the_loop_in_data_received_is_refused(run, reports):
    class Runs(Recorder):
        def data_received(self, data):
            self.loop.run_until_complete(self.lost)

    async def main():
        protocol, peer = await connect(Runs)
        peer.sendall(b"x")
        exception = await protocol.lost
        assert type(exception) is RuntimeError
        assert str(exception) == "This event loop is already running"
        assert len(reports.take()) == 1
        peer.close()

    run(main)


def test_closing_the_loop_in_data_received_is_refused(run, reports):
    class Closes(Recorder):
        def data_received(self, data):
            self.loop.close()

    async def main():
        protocol, peer = await connect(Closes)
        peer.sendall(b"x")
        assert str(await protocol.lost) == "Cannot close a running event loop"
        assert len(reports.take()) == 1
        peer.close()

    run(main)


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["text", 1, None, 1.5, [b"x"], object()])
def test_what_cannot_be_written_is_a_type_error_and_harmless(run, data):
    async def main():
        protocol, peer = await connect()
        with pytest.raises(TypeError) as caught:
            protocol.transport.write(data)
        wanted = "bytes, bytearray, or memoryview object" if "memoryview" in str(caught.value) else "bytes-like object"
        expected = f"data argument must be a {wanted}, not {type(data).__name__!r}"
        assert str(caught.value) == expected
        with pytest.raises(TypeError):
            protocol.transport.write()
        with pytest.raises(TypeError):
            protocol.transport.write(b"x", b"y")
        protocol.transport.write(b"fine")
        assert receive_exactly(peer, 4) == b"fine"
        await close(protocol, peer)

    run(main)


@pytest.mark.parametrize("lines", [1, None, ["text"], [1], [b"x", 1]])
def test_lines_that_cannot_be_written_are_a_type_error(run, lines):
    async def main():
        protocol, peer = await connect()
        if lines is None and sys.version_info >= (3, 12):
            pass  # falsy, so nothing to do
        else:
            with pytest.raises(TypeError):
                protocol.transport.writelines(lines)
        await close(protocol, peer)

    run(main)


def test_lines_of_which_one_is_wrong_are_not_written_in_part(run):
    async def main():
        protocol, peer = await connect()
        with pytest.raises(TypeError):
            protocol.transport.writelines([b"first", 1])
        protocol.transport.write(b"x")
        assert peer.recv(100) == b"x"
        await close(protocol, peer)

    run(main)


def test_a_view_with_gaps_cannot_be_sent(run, reports):
    async def main():
        protocol, peer = await connect()
        protocol.transport.write(memoryview(b"abcdef")[::2])
        assert type(await protocol.lost) is BufferError
        assert reports.take() == [("Fatal write error on socket transport", BufferError)]
        peer.close()

    run(main)


def test_writing_after_the_end_is_counted_and_warned_of(run, caplog, is_ours):
    async def main():
        protocol, peer = await connect()
        protocol.transport.abort()
        with caplog.at_level(logging.WARNING, logger="asyncio"):
            for _ in range(5):
                protocol.transport.write(b"x")
            told = [record.getMessage() for record in caplog.records]
            assert told == ["socket.send() raised exception."]
            protocol.transport.write(b"x")
            assert len(caplog.records) == 2
        await protocol.lost
        protocol.transport.write(b"x")  # closed and gone
        if is_ours:  # asyncio 3.13.0: AttributeError
            protocol.transport.writelines([b"x"])
        peer.close()

    run(main)


# --- all at once --------------------------------------------------------------------------------


def test_many_bad_connections_leave_nothing(run, reports):
    """Everything that can go wrong in one connection, fifty times, beside one that works."""

    async def main():
        good, good_peer = await connect()
        for count in range(50):
            kind = [
                raises("data_received"),
                raises("eof_received"),
                raises("connection_lost"),
                raises("buffer_updated", base=BufferedRecorder),
                raises("connection_made"),
            ][count % 5]
            protocol, peer = await connect(kind)
            peer.sendall(b"x")
            if count % 2:
                peer.close()
            else:
                peer.shutdown(socket.SHUT_WR)
            await protocol.until(lambda protocol=protocol: {"lost", "connection_lost"} & set(protocol.calls))
            peer.close()
        await turns(2)
        assert len(reports.take()) == 50
        good_peer.sendall(b"fine")
        await good.until_received(4)
        await close(good, good_peer)

    run(main)
