"""The `sock_*` methods where a program's own code runs inside of them, and on sockets that block."""

import asyncio
import contextlib
import gc
import os
import socket
import sys
import threading
import time
import weakref

import pytest
from differential import observe, same
from peers import turns

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.aioxide_only
def test_accepting_on_a_listener_that_blocks_does_not_stop_the_loop(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await turns(3)
            assert not accepting.done()
            with socket.create_connection(listener.getsockname()):
                connection, _ = await accepting
                assert connection.gettimeout() == 0
                connection.close()

    run(main)


def test_connecting_a_socket_that_blocks_lets_other_threads_run(run):
    """It blocks the loop, as in asyncio, but not the process: a thread makes room for the connection."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            waiting = []
            for _ in range(2):  # the backlog is full
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(listener.getsockname())

            done = threading.Event()

            def drain():
                time.sleep(0.1)
                listener.settimeout(0.05)
                while not done.is_set():
                    with contextlib.suppress(TimeoutError):
                        listener.accept()[0].close()

            thread = threading.Thread(target=drain)
            thread.start()
            with socket.socket() as sock:
                await loop.sock_connect(sock, listener.getsockname())
            done.set()
            thread.join()
            for one in waiting:
                one.close()

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ in Python is of 3.12 (PEP 688)")
def test_a_buffer_that_closes_the_socket_gets_nobody_elses_bytes():
    async def scenario():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        other, secret = socket.socketpair()
        secret.send(b"SECRET")
        here.setblocking(False)
        number = here.fileno()

        class Closing(bytearray):
            def __buffer__(self, flags):
                if here.fileno() != -1:
                    here.close()
                    os.dup2(other.fileno(), number)
                return super().__buffer__(flags)

        buffer = Closing(10)
        try:
            with pytest.raises(OSError) as raised:
                await loop.sock_recv_into(here, buffer)
        finally:
            os.close(number)
            for sock in (there, other, secret):
                sock.close()
        return raised.value.errno, bytes(buffer)

    same(scenario)


@pytest.mark.parametrize("call", ["sendall", "recv_into"])
def test_a_cycle_through_what_a_suspended_call_was_given_is_collected(run, call):
    class Data(bytearray):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            data = Data(4_000_000)
            made = getattr(loop, f"sock_{call}")(here, data)
            data.cycle = made
            made.send(None)
            loop.remove_reader(here)
            loop.remove_writer(here)  # the loop's own reference to what it waits for
            gone = weakref.ref(data)
            del made, data
            gc.collect()
            assert gone() is None

    run(main)


def test_a_bytearray_cannot_be_resized_while_it_is_sent(run):
    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            data = bytearray(4_000_000)
            sending = asyncio.ensure_future(loop.sock_sendall(here, data))
            await turns(2)
            with pytest.raises(BufferError):
                data.append(1)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            data.append(1)

    run(main)


def test_an_interrupt_while_a_socket_is_given_up_comes_out():
    class Interrupted(socket.socket):
        def close(self):
            super().close()
            raise KeyboardInterrupt("in close")

    async def scenario():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        sock = Interrupted(fileno=here.detach())
        with there:

            def factory():
                raise ValueError("no protocol")

            try:
                await loop.create_connection(factory, sock=sock)
            except BaseException as error:
                sock.detach()
                return type(error).__name__
            return None

    # asyncio leaves the socket to the collector and never closes it here.
    assert observe("aioxide", scenario)["result"] == "KeyboardInterrupt"


def test_an_attempt_that_fails_with_another_error_does_not_end_the_race(new_loop):
    base = type(new_loop())

    class Loop(base):
        async def getaddrinfo(self, host, port, **options):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", n)) for n in (1, port)]

        async def sock_connect(self, sock, address):
            if address[1] == 1:
                raise ValueError("odd")
            return await super().sock_connect(sock, address)

    loop = Loop()
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            async def main():
                port = listener.getsockname()[1]
                transport, _ = await loop.create_connection(asyncio.Protocol, "a.name", port, happy_eyeballs_delay=0.2)
                transport.abort()
                await asyncio.sleep(0)

            loop.run_until_complete(main())
    finally:
        loop.close()


def test_what_a_dropped_call_raises_while_it_ends_is_told(new_loop, monkeypatch):
    base = type(new_loop())
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(type(what.exc_value)))

    class Loop(base):
        async def getaddrinfo(self, host, port, **options):
            try:
                await asyncio.sleep(3600)
            finally:
                raise ZeroDivisionError

    loop = Loop()
    try:

        async def main():
            with socket.socket() as sock:
                sock.setblocking(False)
                made = loop.sock_connect(sock, ("a.name", 80))
                made.send(None)
                del made
                gc.collect()

        loop.run_until_complete(main())
    finally:
        loop.close()
    assert told == [ZeroDivisionError]


@pytest.mark.parametrize(
    "address",
    [("::1", 1, 2**20, 0), ("::1", 1, 0, 2**32), ("127.0.0.1", True), ("127.0.0.1", -1), ("127.0.0.1", 2**16)],
    ids=str,
)
def test_addresses_that_are_none(address):
    async def scenario():
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
        with socket.socket(family) as sock:
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
            except Exception as error:
                return type(error).__name__, str(error)

    same(scenario)


AUDITED = []


@pytest.fixture(scope="module")
def audited():
    """Audit hooks stay for the life of the process: one for all, which does nothing unless it is told to."""
    sys.addaudithook(lambda event, args: [hook(event, args) for hook in AUDITED])
    yield AUDITED
    AUDITED.clear()


def test_an_audit_hook_that_closes_the_socket_connects_nobody_elses(audited):
    async def scenario():
        loop = asyncio.get_running_loop()
        sock, other = socket.socket(), socket.socket()
        number = sock.fileno()
        seen = []

        def hook(event, args):
            if event == "socket.connect" and args[0] is sock:
                seen.append(args[1])
                sock.close()
                os.dup2(other.fileno(), number)

        with socket.create_server(("127.0.0.1", 0)) as listener, other:
            sock.setblocking(False)
            other.setblocking(False)
            audited.append(hook)
            try:
                with pytest.raises(OSError) as raised:
                    await loop.sock_connect(sock, listener.getsockname())
            finally:
                audited.remove(hook)
                os.close(number)
            listener.settimeout(0.05)
            with pytest.raises(TimeoutError):
                listener.accept()
            return raised.value.errno, len(seen)

    same(scenario)


def test_a_socket_that_cannot_be_made_non_blocking_is_closed(run, monkeypatch):
    made = []

    class Refusing(socket.socket):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

        def setblocking(self, flag):
            raise OSError(1, "refused")

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            monkeypatch.setattr(socket, "socket", Refusing)
            try:
                with pytest.raises(OSError, match="refused"):
                    await loop.create_connection(asyncio.Protocol, *listener.getsockname())
            finally:
                monkeypatch.undo()
        assert [sock.fileno() for sock in made] == [-1]

    run(main)
