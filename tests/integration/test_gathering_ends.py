"""Write gathering where a callback is not the usual one: signals, threads, the end of the program, forks."""

import asyncio
import gc
import signal
import subprocess
import sys
import textwrap
import weakref

import pytest
from gathering import arrived, in_callback, warm, write_each
from peers import PATIENCE_S, close, connect, receive_exactly, tcp_pair


@pytest.mark.aioxide_only
def test_a_transport_that_is_held_lives_until_it_is_sent(run):
    async def main():
        protocol, peer = await connect()
        await warm(protocol, peer)
        protocol.transport.pause_reading()  # so that nobody watches
        dying = weakref.ref(protocol.transport)

        def write_and_drop():
            protocol.transport.write(b"a")
            protocol.transport.write(b"b")
            protocol.transport = None
            gc.collect()
            return dying() is not None

        with pytest.warns(ResourceWarning, match="unclosed transport"):
            assert await in_callback(write_and_drop)
            await asyncio.sleep(0)
            gc.collect()
        assert dying() is None
        assert receive_exactly(peer, 2) == b"ab"
        peer.close()

    run(main)


def test_what_is_written_between_two_callbacks_is_sent_before_the_loop_sleeps(run, pair):
    """By a signal handler that runs while the loop waits."""

    async def main():
        protocol, peer = await pair()
        answered = asyncio.get_running_loop().create_future()
        previous = signal.signal(
            signal.SIGALRM, lambda *_: write_each(protocol.transport, b"from ", b"the ", b"handler")
        )
        protocol.loop.add_reader(peer, lambda: answered.done() or answered.set_result(arrived(peer)))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            received = await asyncio.wait_for(answered, PATIENCE_S)
            while len(received) < len(b"from the handler"):
                await asyncio.sleep(0)
                received += arrived(peer)
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert received == b"from the handler"
        protocol.loop.remove_reader(peer)
        await close(protocol, peer)

    run(main)


def test_a_write_while_the_loop_does_not_run_goes_at_once(new_loop, temperature):
    loop = new_loop()

    async def main():
        protocol, peer = await connect()
        if temperature == "warm":
            await warm(protocol, peer)
        return protocol, peer

    protocol, peer = loop.run_until_complete(main())
    for _ in range(3):
        write_each(protocol.transport, b"a", b"b")
        assert arrived(peer) == b"ab"
    loop.run_until_complete(close(protocol, peer))


def test_a_write_from_another_thread_goes_at_once(run, pair):
    async def main():
        protocol, peer = await pair()
        loop = protocol.loop

        def write():
            write_each(protocol.transport, b"a", b"b")
            return arrived(peer)

        for _ in range(3):
            assert await loop.run_in_executor(None, write) == b"ab"

        def write_here_then_there():
            from threading import Thread

            seen = []
            protocol.transport.write(b"here")
            thread = Thread(target=lambda: seen.append(write()))
            thread.start()
            thread.join()
            return seen[0]

        seen = await in_callback(write_here_then_there)
        assert seen == b"hereab"
        await close(protocol, peer)

    run(main)


@pytest.mark.parametrize("exit", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_ends_the_callback_first(new_loop, temperature, exit):
    loop = new_loop()

    async def main():
        protocol, peer = await connect()
        if temperature == "warm":
            await warm(protocol, peer)
        return protocol, peer

    protocol, peer = loop.run_until_complete(main())

    def write_and_exit():
        write_each(protocol.transport, b"last", b"words")
        raise exit

    loop.call_soon(write_and_exit)
    with pytest.raises(exit):
        loop.run_forever()
    assert arrived(peer) == b"lastwords"

    async def in_a_task():
        write_each(protocol.transport, b"last", b"words")
        raise exit

    task = loop.create_task(in_a_task())
    with pytest.raises(exit):
        loop.run_forever()
    assert type(task.exception()) is exit
    assert arrived(peer) == b"lastwords"

    def write_and_stop():
        write_each(protocol.transport, b"last", b"words")
        loop.stop()

    loop.call_soon(write_and_stop)
    loop.run_forever()
    assert arrived(peer) == b"lastwords"
    loop.run_until_complete(close(protocol, peer))


# --- processes that end or fork ------------------------------------------------------------------

PROGRAM = textwrap.dedent("""
    import asyncio, os, socket, sys, threading
    which, temperature, ending = sys.argv[1:]
    if which == "aioxide":
        import aioxide
        loop = aioxide.EventLoop()
    else:
        loop = asyncio.SelectorEventLoop()
    sock = socket.socket(fileno=0)
    transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=sock))

    def write():
        transport.write(b"one ")
        transport.write(b"two ")

    if temperature == "warm":
        for _ in range(5):
            loop.call_soon(write)
            loop.call_soon(loop.stop)
            loop.run_forever()

    def end():
        write()
        if ending == "_exit":
            os._exit(0)
        if ending == "exit":
            sys.exit(0)
        if ending == "raise":
            raise KeyboardInterrupt
        if ending == "fork":
            pid = os.fork()
            if pid == 0:
                sys.exit(0)
            os.waitpid(pid, 0)
        if ending == "fork_in_thread":
            def fork():
                if (pid := os.fork()) == 0:
                    transport.get_write_buffer_size()  # flushes in the parent
                    os._exit(0)
                os.waitpid(pid, 0)
            thread = threading.Thread(target=fork)
            thread.start()
            thread.join()
        loop.stop()

    transport.write(b"end:") if temperature == "cold" else loop.call_soon(transport.write, b"end:")
    if temperature == "warm":
        for _ in range(5):
            loop.call_soon(write)
    loop.call_soon(end)
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        pass
    transport.abort()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
""")


@pytest.mark.parametrize("ending", ["_exit", "exit", "raise", "fork", "fork_in_thread", "stop"])
def test_a_process_that_ends_or_forks_has_sent_each_byte_once(loop_name, temperature, ending):
    if ending == "_exit" and temperature == "warm":
        pytest.skip("what is held is lost by os._exit, SIGKILL and exec: docs/differences.md")
    here, there = tcp_pair()
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, loop_name, temperature, ending]
    with here, there:
        done = subprocess.run(program, stdin=here, capture_output=True, text=True, timeout=30)
        here.close()
        received = b""
        while piece := there.recv(1 << 16):
            received += piece
    assert (done.returncode, done.stderr) == (0, "")
    writes = 1 if temperature == "cold" else 11
    assert received.count(b"one two ") == writes, received
    assert len(received) == 4 + 8 * writes
