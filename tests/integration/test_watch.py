"""`add_reader` and its like."""

import asyncio
import contextvars
import os
import socket

import pytest
from peers import connect, turns


class Pair:
    """A socket pair that is watched, and what was seen there."""

    def __init__(self, loop):
        self.loop = loop
        self.here, self.there = socket.socketpair()
        self.here.setblocking(False)
        self.seen = []
        self.happened = asyncio.Event()

    def see(self, *what):
        self.seen.append(what)
        self.happened.set()

    async def wait(self):
        await asyncio.wait_for(self.happened.wait(), 10)
        self.happened.clear()

    def close(self):
        for sock in (self.here, self.there):
            if sock.fileno() >= 0:
                self.loop.remove_reader(sock)
                self.loop.remove_writer(sock)
            sock.close()


@pytest.fixture
def watch(run):
    """Run a test body with a loop and a pair."""

    def watch(body):
        async def main():
            pair = Pair(asyncio.get_running_loop())
            try:
                await body(pair.loop, pair)
            finally:
                pair.close()

        run(main)

    return watch


def test_a_reader_is_called_until_it_is_removed(watch):
    async def body(loop, pair):
        assert loop.add_reader(pair.here, pair.see, 1, 2) is None
        pair.there.send(b"x")
        await pair.wait()
        await pair.wait()  # level-triggered: the byte is still there
        assert set(pair.seen) == {(1, 2)}
        assert loop.remove_reader(pair.here) is True
        assert loop.remove_reader(pair.here) is False
        count = len(pair.seen)
        await turns(200)
        assert len(pair.seen) == count

    watch(body)


def test_a_writer_is_called_until_it_is_removed(watch):
    async def body(loop, pair):
        loop.add_writer(pair.here.fileno(), pair.see)
        await pair.wait()
        assert loop.remove_reader(pair.here) is False
        assert loop.remove_writer(pair.here) is True
        assert loop.remove_writer(pair.here) is False

    watch(body)


def test_both_directions_of_one_descriptor(watch):
    async def body(loop, pair):
        order = []
        done = loop.create_future()

        def write():
            order.append("write")
            loop.remove_writer(pair.here)
            done.set_result(None)

        def read():
            order.append("read")
            loop.remove_reader(pair.here)

        pair.there.send(b"x")
        loop.add_writer(pair.here, write)
        loop.add_reader(pair.here, read)
        await done
        assert order == ["read", "write"]  # the reader is first

    watch(body)


def test_another_reader_takes_the_place_of_the_first(watch):
    async def body(loop, pair):
        loop.add_reader(pair.here, pair.see, "first")
        loop.add_reader(pair.here.fileno(), pair.see, "second")
        pair.there.send(b"x")
        await pair.wait()
        loop.remove_reader(pair.here)
        assert set(pair.seen) == {("second",)}

    watch(body)


def test_a_watch_removed_in_the_same_turn_is_not_called(watch):
    async def body(loop, pair):
        def first_wins(name, other):
            pair.see(name)
            loop.remove_reader(other)

        pair.here.send(b"x")
        pair.there.send(b"x")
        loop.add_reader(pair.here, first_wins, "here", pair.there)
        loop.add_reader(pair.there, first_wins, "there", pair.here)
        await pair.wait()
        await turns(3)
        assert len(set(pair.seen)) == 1

    watch(body)


def test_a_reader_may_replace_itself(watch):
    async def body(loop, pair):
        def once():
            pair.see("once")
            loop.add_reader(pair.here, lambda: (pair.see("then"), loop.remove_reader(pair.here)))

        pair.there.send(b"x")
        loop.add_reader(pair.here, once)
        while len(pair.seen) < 2:
            await pair.wait()
        assert pair.seen == [("once",), ("then",)]

    watch(body)


def test_a_watcher_runs_in_the_context_in_which_it_was_added(watch):
    where = contextvars.ContextVar("where")

    async def body(loop, pair):
        where.set("adding")
        loop.add_writer(pair.here, lambda: (loop.remove_writer(pair.here), pair.see(where.get())))
        where.set("later")
        await pair.wait()
        assert pair.seen == [("adding",)]

    watch(body)


def test_what_a_watcher_raises_is_reported_and_it_is_called_again(watch, reports):
    async def body(loop, pair):
        def fail():
            pair.see()
            if len(pair.seen) == 2:
                loop.call_soon(loop.remove_reader, pair.here)
            raise ZeroDivisionError("no")

        pair.there.send(b"x")
        loop.add_reader(pair.here, fail)
        while len(pair.seen) < 2:
            await pair.wait()
        await turns(2)
        told = reports.take_whole()
        assert len(told) >= 2
        for report in told:
            assert report.message.startswith("Exception in callback ") and "fail()" in report.message
            assert (report.exception, report.text) == (ZeroDivisionError, "no")
            assert report.others == ("handle",)

    watch(body)


def test_the_end_of_a_pipe_wakes_its_reader(run):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        ended = loop.create_future()
        loop.add_reader(reader, lambda: ended.done() or ended.set_result(os.read(reader, 1)))
        os.close(writer)
        assert await ended == b""
        loop.remove_reader(reader)
        os.close(reader)

    run(main)


def test_a_pipe_nobody_reads_wakes_its_writer(run):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        while True:
            try:
                os.write(writer, bytes(65536))
            except BlockingIOError:
                break
        woken = loop.create_future()
        loop.add_writer(writer, lambda: woken.done() or woken.set_result(None))
        os.close(reader)
        await woken
        loop.remove_writer(writer)
        os.close(writer)

    run(main)


class File:
    """A file object in the eyes of `selectors`."""

    def __init__(self, number):
        self.number = number

    def fileno(self):
        return self.number

    def __repr__(self):
        return "<a file>"


@pytest.mark.parametrize("method", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        (-1, "Invalid file descriptor: -1"),
        (1.5, "Invalid file object: 1.5"),
        (None, "Invalid file object: None"),
        ("1", "Invalid file object: '1'"),
        (object, "Invalid file object: <class 'object'>"),
        (File("one"), "Invalid file object: <a file>"),
        (File(None), "Invalid file object: <a file>"),
        (File(-5), "Invalid file descriptor: -5"),
    ],
)
def test_what_is_no_descriptor_is_a_value_error(run, method, file, message):
    async def main():
        arguments = (file, print) if method.startswith("add") else (file,)
        with pytest.raises(ValueError) as caught:
            getattr(asyncio.get_running_loop(), method)(*arguments)
        assert str(caught.value) == message

    run(main)


def test_a_file_object_without_error_of_its_own_is_a_value_error(run):
    class Broken:
        def fileno(self):
            raise ZeroDivisionError

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ZeroDivisionError):
            loop.add_reader(Broken(), print)
        with pytest.raises(ZeroDivisionError):
            loop.remove_writer(Broken())

    run(main)


def test_a_closed_descriptor_cannot_be_watched(run):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        os.close(reader)
        os.close(writer)
        with pytest.raises(OSError) as caught:
            loop.add_reader(reader, print)
        assert str(caught.value) == "[Errno 9] Bad file descriptor"
        assert loop.remove_reader(reader) is False
        sock = socket.socket()
        sock.close()
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            loop.add_reader(sock, print)

    run(main)


def test_a_regular_file_cannot_be_watched(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        with open(tmp_path / "file", "wb") as file:
            with pytest.raises(PermissionError) as caught:
                loop.add_writer(file, print)
            assert str(caught.value) == "[Errno 1] Operation not permitted"
            assert loop.remove_writer(file) is False

    run(main)


def test_a_descriptor_closed_while_it_is_watched_can_be_removed(run):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        loop.add_reader(reader, print)
        os.close(reader)
        await turns(2)
        assert loop.remove_reader(reader) is True
        assert loop.remove_reader(reader) is False
        os.close(writer)

    run(main)


def test_a_file_object_closed_while_it_is_watched_can_be_removed_by_itself(watch):
    async def body(loop, pair):
        loop.add_reader(pair.here, pair.see)
        pair.here.close()
        assert loop.remove_reader(pair.here) is True
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            loop.remove_reader(pair.here)

    watch(body)


@pytest.mark.aioxide_only
def test_a_number_that_was_closed_and_used_again_is_watched_anew(run):
    async def main():
        loop = asyncio.get_running_loop()
        old, there = socket.socketpair()
        copy = os.dup(old.fileno())
        number = old.fileno()
        loop.add_reader(number, print)
        old.close()  # its registration lives on in the copy
        there.send(b"x")
        new, other = socket.socketpair()
        assert number in (new.fileno(), other.fileno())
        if other.fileno() == number:
            new, other = other, new
        seen = loop.create_future()
        loop.add_reader(number, lambda: seen.done() or seen.set_result(None))
        other.send(b"y")
        await seen
        assert loop.remove_reader(number)
        for sock in (new, other, there):
            sock.close()
        os.close(copy)

    run(main)


def test_a_transports_descriptor_is_not_for_watching(run):
    async def main():
        protocol, peer = await connect()
        loop = protocol.loop
        number = protocol.transport.get_extra_info("socket").fileno()
        sock = socket.socket(fileno=os.dup(number))
        for method, arguments in [
            (loop.add_reader, (print,)),
            (loop.add_writer, (print,)),
            (loop.remove_reader, ()),
            (loop.remove_writer, ()),
        ]:
            with pytest.raises(RuntimeError) as caught:
                method(number, *arguments)
            assert str(caught.value) == f"File descriptor {number} is used by transport {protocol.transport!r}"
            with pytest.raises(RuntimeError, match="File descriptor <a file> is used by transport <"):
                method(File(number), *arguments)
        sock.close()
        peer.sendall(b"x")
        await protocol.until_received(1)  # it is watched as before
        protocol.transport.close()
        assert loop.remove_reader(number) is False  # a closing transport does not mind
        await protocol.lost
        peer.close()

    run(main)


def test_a_closed_loop_watches_nothing(new_loop):
    loop = new_loop()
    here, there = socket.socketpair()
    loop.add_reader(here, print)
    loop.close()
    for method in (loop.add_reader, loop.add_writer):
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            method(there, print)
    assert loop.remove_reader(here) is False
    assert loop.remove_writer(here) is False
    here.close()
    there.close()


def test_a_loop_that_waits_sees_what_another_thread_adds(run):
    import threading

    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        read = loop.create_future()

        def add():
            loop.add_reader(reader, lambda: read.done() or read.set_result(os.read(reader, 1)))

        def work():
            loop.call_soon_threadsafe(add)
            os.write(writer, b"x")

        thread = threading.Thread(target=work)
        thread.start()
        assert await read == b"x"
        thread.join()
        loop.remove_reader(reader)
        os.close(reader)
        os.close(writer)

    run(main)


def test_callables_are_checked_in_debug_mode(watch):
    async def body(loop, pair):
        async def coroutine():
            pass

        loop.set_debug(True)
        for bad, message in [
            (coroutine, "coroutines cannot be used with "),
            (1, "a callable object was expected by "),
        ]:
            with pytest.raises(TypeError, match=message):
                loop.call_soon(bad)

    watch(body)


def test_a_failed_watch_leaves_the_other_direction_as_it_was(watch):
    async def body(loop, pair):
        loop.add_reader(pair.here, pair.see, "reader")
        with pytest.raises(TypeError):
            loop.add_writer(pair.here)  # no callback
        pair.there.send(b"x")
        await pair.wait()
        assert loop.remove_writer(pair.here) is False
        assert loop.remove_reader(pair.here) is True
        assert set(pair.seen) == {("reader",)}

    watch(body)


def test_duplicates_are_watched_each_for_itself(watch):
    async def body(loop, pair):
        copies = [os.dup(pair.here.fileno()) for _ in range(3)]
        for number in copies:
            loop.add_reader(number, pair.see, number)
        loop.add_reader(pair.here, pair.see, "own")
        pair.there.send(b"x")
        while len(set(pair.seen)) < 4:
            await pair.wait()
        # One is removed and closed: the others are reported on as before.
        assert loop.remove_reader(copies[0]) is True
        os.close(copies[0])
        pair.seen.clear()
        while len(set(pair.seen)) < 3:
            await pair.wait()
        assert {seen for (seen,) in pair.seen} == {copies[1], copies[2], "own"}
        for number in copies[1:]:
            assert loop.remove_reader(number) is True
            os.close(number)
        assert loop.remove_reader(pair.here) is True
        pair.seen.clear()
        await turns(100)
        assert pair.seen == []

    watch(body)


def test_removing_one_direction_leaves_the_other(watch):
    async def body(loop, pair):
        loop.add_reader(pair.here, pair.see, "reader")
        loop.add_writer(pair.here, pair.see, "writer")
        await pair.wait()
        assert loop.remove_writer(pair.here) is True
        pair.seen.clear()
        await turns(20)
        assert pair.seen == []
        pair.there.send(b"x")
        await pair.wait()
        assert set(pair.seen) == {("reader",)}
        loop.add_writer(pair.here, pair.see, "writer")
        assert loop.remove_reader(pair.here) is True
        pair.seen.clear()
        await pair.wait()
        assert set(pair.seen) == {("writer",)}

    watch(body)


def test_both_sides_of_a_pipe_an_event_and_an_epoll_set_can_be_watched(run):
    import select

    async def main():
        loop = asyncio.get_running_loop()
        poll = select.epoll()
        reader, writer = os.pipe()
        poll.register(reader, select.EPOLLIN)
        seen = {name: loop.create_future() for name in ("epoll", "pipe", "writer")}

        def see(name):
            if not seen[name].done():
                seen[name].set_result(None)

        loop.add_reader(poll, see, "epoll")
        loop.add_reader(reader, see, "pipe")
        loop.add_writer(writer, see, "writer")
        await seen["writer"]
        assert not seen["epoll"].done()
        os.write(writer, b"x")
        await seen["epoll"]
        await seen["pipe"]
        assert loop.remove_reader(poll) and loop.remove_reader(reader) and loop.remove_writer(writer)
        poll.close()
        os.close(reader)
        os.close(writer)

    run(main)


def test_the_callback_of_a_watcher_may_do_anything(watch):
    """Remove itself, close its file, add another, stop the loop's other watchers."""

    async def body(loop, pair):
        other, there = socket.socketpair()

        def first():
            pair.see("first")
            loop.remove_reader(pair.here)
            loop.remove_reader(other)
            other.close()
            loop.add_writer(pair.here, second)

        def second():
            pair.see("second")
            loop.remove_writer(pair.here)
            loop.add_reader(pair.here, third)

        def third():
            pair.see("third")
            pair.here.recv(1)
            loop.remove_reader(pair.here)

        loop.add_reader(pair.here, first)
        loop.add_reader(other, lambda: other.recv(1))
        pair.there.send(b"x")
        while len(pair.seen) < 3:
            await pair.wait()
        assert [name for (name,) in pair.seen] == ["first", "second", "third"]
        there.close()

    watch(body)


def test_a_thousand_watchers(run):
    async def main():
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(200)]
        seen = []
        done = loop.create_future()

        def see(number, sock):
            sock.recv(1)
            seen.append(number)
            if len(seen) == 3 * len(pairs):
                done.set_result(None)

        for number, (here, there) in enumerate(pairs):
            loop.add_reader(here, see, number, here)
            there.send(b"xyz")
        await asyncio.wait_for(done, 10)
        assert sorted(seen) == sorted(list(range(len(pairs))) * 3)
        for here, there in pairs:
            assert loop.remove_reader(here) is True
            here.close()
            there.close()

    run(main)
