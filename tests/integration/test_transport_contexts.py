"""In which context (contextvars) each callback of a transport, a server and a watcher runs: asyncio's, by version.

Up to 3.14 a callback runs in a copy of the context of whoever caused it to be scheduled: `connection_made` in the
maker's, `data_received` in that of the last `resume_reading()`, `connection_lost` in that of `close()`. From 3.15 on all
of them run in one copy of the context in which the transport was made.
"""

import asyncio
import contextvars
import socket
import sys

import pytest
from differential import same
from peers import TOO_MUCH, BufferedRecorder, Recorder, receive_all, reset, tcp_pair, turns

pytestmark = pytest.mark.usefixtures("no_leaks")

#: The context that 3.15 gives a transport is only entered while it is made (event_loop/serve.rs, in_context): what it
#: schedules then and later copies whatever context is current (transport/mod.rs: schedule_start, call_soon; inbound.rs:
#: resume_reading; outbound.rs: write_context). asyncio runs all of them in that one context.

where = contextvars.ContextVar("where", default="nowhere")
trail = contextvars.ContextVar("trail", default=())


def context_noting(base):
    class Noting(base):
        """Writes down where each call runs, and leaves a mark there: is it the same context next time?"""

        def __init__(self):
            super().__init__()
            self.seen = []
            self.here("factory")

        def here(self, call):
            self.seen.append((call, where.get(), trail.get()))
            trail.set((*trail.get(), call))

        def connection_made(self, transport):
            self.here("made")
            super().connection_made(transport)

        def data_received(self, data):
            self.here("data")
            super().data_received(data)

        def get_buffer(self, sizehint):
            self.here("get_buffer")
            return super().get_buffer(sizehint)

        def eof_received(self):
            self.here("eof")
            return super().eof_received()

        def pause_writing(self):
            self.here("pause")
            super().pause_writing()

        def resume_writing(self):
            self.here("resume")
            super().resume_writing()

        def connection_lost(self, exception):
            self.here("lost")
            super().connection_lost(exception)

    return Noting


Noting = context_noting(Recorder)
BufferedNoting = context_noting(BufferedRecorder)


async def within(name, function, *args):
    """Call in a context of its own, where `where` is `name`."""

    def body():
        where.set(name)
        return function(*args)

    result = contextvars.copy_context().run(body)
    return await result if asyncio.iscoroutine(result) else result


async def made_in(name, make, sock, method="create_connection"):
    """The task that makes the transport has a context of its own."""

    async def body():
        where.set(name)
        return await getattr(asyncio.get_running_loop(), method)(make, sock=sock)

    _, protocol = await asyncio.ensure_future(body())
    return protocol


@pytest.mark.parametrize("make", [Noting, BufferedNoting])
@pytest.mark.parametrize("method", ["create_connection", "connect_accepted_socket"])
@pytest.mark.parametrize("ending", ["close", "abort", "peer", "reset"])
def test_the_life_of_a_connection(make, method, ending):
    async def scenario():
        where.set("test")
        here, there = tcp_pair()
        protocol = await made_in("making", make, here, method)
        for count in range(1, 4):  # marks left by data_received are seen by the next one
            there.sendall(b"x")
            await protocol.until_received(count)
        if ending == "peer":
            there.close()
        elif ending == "reset":
            reset(there)
        else:
            await within("ending", getattr(protocol.transport, ending))
        await protocol.lost
        there.close()
        return protocol.seen

    seen = same(scenario)
    assert seen[0] == ("factory", "making", ())
    if sys.version_info >= (3, 15):
        assert {place for _, place, _ in seen} == {"making"}
    else:
        assert seen[-1][1] == ("making" if ending in ("peer", "reset") else "ending")


def test_reading_resumed_in_another_context():
    async def scenario():
        where.set("test")
        here, there = tcp_pair()
        protocol = await made_in("making", Noting, here)
        there.sendall(b"x")
        await protocol.until_received(1)
        await within("pausing", protocol.transport.pause_reading)
        there.sendall(b"x")
        await turns(3)
        await within("resuming", protocol.transport.resume_reading)
        await protocol.until_received(2)
        await within("nothing to resume", protocol.transport.resume_reading)
        there.sendall(b"x")
        await protocol.until_received(3)
        there.close()
        await protocol.lost
        return protocol.seen

    same(scenario)


@pytest.mark.parametrize("again", [False, True])
def test_writing_pauses_where_it_is_called_and_resumes_where_the_queue_began(again):
    async def scenario():
        where.set("test")
        here, there = tcp_pair()
        protocol = await made_in("making", Noting, here)
        await within("writing", protocol.transport.write, bytes(TOO_MUCH))
        await within("writing more", protocol.transport.write, b"more")
        there.setblocking(False)
        await receive_all(there, TOO_MUCH + 4)
        await protocol.until(lambda: "resume" in protocol.calls)
        if again:
            await within("lines", protocol.transport.writelines, [bytes(TOO_MUCH // 2)] * 2)
            await receive_all(there, TOO_MUCH)
            await asyncio.sleep(0.01)
        await within("ending", protocol.transport.close)
        await protocol.lost
        there.close()
        seen = protocol.seen
        if again and sys.version_info < (3, 13, 1) and seen.count("pause") < 2:
            # writelines of older Pythons does not pause; ours does.
            seen = [one for one in seen if one[1] != "lines"]
        return [(call, place) for call, place, _ in seen if not (again and call == "resume" and place == "lines")]

    same(scenario)


def test_limits_lowered_pause_in_the_callers_context():
    async def scenario():
        where.set("test")
        here, there = tcp_pair()
        protocol = await made_in("making", Noting, here)
        protocol.transport.set_write_buffer_limits(high=1 << 30)
        await within("writing", protocol.transport.write, bytes(TOO_MUCH))
        await within("limiting", lambda: protocol.transport.set_write_buffer_limits(high=1))
        protocol.transport.abort()
        await protocol.lost
        there.close()
        return protocol.seen

    same(scenario)


def test_a_close_that_waits_for_the_queue_ends_where_the_queue_is_sent():
    async def scenario():
        where.set("test")
        here, there = tcp_pair()
        protocol = await made_in("making", Noting, here)
        await within("writing", protocol.transport.write, bytes(TOO_MUCH))
        await within("closing", protocol.transport.close)
        there.setblocking(False)
        await receive_all(there, TOO_MUCH)
        await protocol.lost
        there.close()
        return protocol.seen

    same(scenario)


def test_a_write_that_fails_ends_the_connection_in_the_writers_context():
    async def scenario():
        where.set("test")
        here, there = tcp_pair()
        protocol = await made_in("making", Noting, here)
        protocol.transport.pause_reading()
        reset(there)
        await within("writing", protocol.transport.write, b"x")
        await protocol.lost
        return protocol.seen

    same(scenario)


def test_what_happens_inside_callbacks():
    """close() in data_received, resume_reading() in resume_writing and so on carry their own context."""

    class Inside(Noting):
        def connection_made(self, transport):
            super().connection_made(transport)
            where.set("set in connection_made")

        def data_received(self, data):
            super().data_received(data)
            where.set("set in data_received")
            if len(self.received) >= 2:
                self.transport.close()

    async def scenario():
        where.set("test")
        here, there = tcp_pair()
        protocol = await made_in("making", Inside, here)
        for count in (1, 2):
            there.sendall(b"x")
            await protocol.until_received(count)
        await protocol.lost
        there.close()
        return protocol.seen, where.get()

    same(scenario)


def test_reading_resumed_in_connection_made_is_started_by_the_maker_all_the_same():
    class Resumes(Noting):
        def connection_made(self, transport):
            super().connection_made(transport)
            where.set("set in connection_made")
            transport.pause_reading()
            transport.resume_reading()

    async def scenario():
        where.set("test")
        here, there = tcp_pair()
        protocol = await made_in("making", Resumes, here)
        there.sendall(b"x")
        await protocol.until_received(1)
        there.close()
        await protocol.lost
        return protocol.seen

    same(scenario)


def test_a_new_protocol_is_called_in_the_transports_context():
    async def scenario():
        where.set("test")
        here, there = tcp_pair()
        first = await made_in("making", Noting, here)
        second = Noting()
        second.transport = first.transport
        await within("setting", first.transport.set_protocol, second)
        there.sendall(b"x")
        await second.until_received(1)
        there.close()
        await second.lost
        return first.seen, second.seen

    same(scenario)


@pytest.mark.parametrize("start_serving", [False, True])
def test_a_servers_connections(start_serving):
    """The factory and the protocol of each connection run in copies: no mark is seen by the next one."""

    async def scenario():
        loop = asyncio.get_running_loop()
        where.set("test")
        made = []

        def make():
            made.append(Noting())
            return made[-1]

        async def serve():
            where.set("serving")
            return await loop.create_server(make, "127.0.0.1", 0, start_serving=start_serving)

        server = await asyncio.ensure_future(serve())
        if not start_serving:
            await within("starting", server.start_serving)
        where.set("later")
        for number in range(1, 4):
            with socket.create_connection(server.sockets[0].getsockname(), 10) as peer:
                while len(made) < number:
                    await asyncio.sleep(0)
                protocol = made[-1]
                for count in (1, 2):
                    peer.sendall(b"x")
                    await protocol.until_received(count)
            await protocol.lost
        server.close()
        await server.wait_closed()
        return [protocol.seen for protocol in made]

    seen = same(scenario)
    assert seen[0] == seen[1] == seen[2]


def test_streams_of_a_server_run_in_its_context():
    async def scenario():
        where.set("test")
        seen = []

        async def serve(reader, writer):
            seen.append(where.get())
            where.set("set by a connection")
            writer.write(await reader.read(1))
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async def start():
            where.set("serving")
            return await asyncio.start_server(serve, "127.0.0.1", 0)

        server = await asyncio.ensure_future(start())
        where.set("later")
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x")
            assert await reader.read() == b"x"
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return seen

    assert same(scenario) == ["serving", "serving"]


def test_watchers_run_where_they_were_added():
    async def scenario():
        loop = asyncio.get_running_loop()
        where.set("test")
        here, there = socket.socketpair()
        seen = []
        enough = asyncio.Event()

        def watcher(name):
            seen.append((name, where.get(), trail.get()))
            trail.set((*trail.get(), name))
            if len(seen) >= 4:
                loop.remove_reader(here)
                loop.remove_writer(here)
                enough.set()

        there.send(b"x")
        await within("reading", lambda: loop.add_reader(here, watcher, "reader"))
        await within("writing", lambda: loop.add_writer(here, watcher, "writer"))
        await asyncio.wait_for(enough.wait(), 10)
        seen = seen[:4]
        # Replaced from another context.
        again = loop.create_future()
        await within("first", lambda: loop.add_reader(here, print))
        await within("second", lambda: loop.add_reader(here, lambda: again.done() or again.set_result(where.get())))
        seen.append(await again)
        loop.remove_reader(here)
        here.close()
        there.close()
        return seen

    same(scenario)


def test_callbacks_of_futures_handles_and_timers():
    async def scenario():
        loop = asyncio.get_running_loop()
        where.set("test")
        seen = []
        done = loop.create_future()
        given = contextvars.copy_context()
        given.run(where.set, "given")

        def note(name, *args):
            seen.append((name, where.get()))

        await within("adding", lambda: done.add_done_callback(lambda _: note("future")))
        done.add_done_callback(lambda _: note("future, given"), context=given)
        await within("soon", lambda: loop.call_soon(note, "soon"))
        loop.call_soon(note, "soon, given", context=given)
        loop.call_soon_threadsafe(note, "threadsafe, given", context=given)
        await within("later", lambda: loop.call_later(0, note, "later"))
        loop.call_later(0, note, "later, given", context=given)
        await within("setting", done.set_result, None)
        await asyncio.sleep(0.01)
        return sorted(seen)

    same(scenario)


def test_a_call_in_another_thread_that_comes_back():
    async def scenario():
        loop = asyncio.get_running_loop()
        where.set("test")
        seen = []

        def work():
            where.set("thread")
            loop.call_soon_threadsafe(lambda: seen.append(where.get()))
            return where.get()

        seen.append(await loop.run_in_executor(None, lambda: where.get()))
        seen.append(await asyncio.to_thread(lambda: where.get()))
        seen.append(await loop.run_in_executor(None, contextvars.copy_context().run, work))
        await turns(3)
        await loop.shutdown_default_executor()
        return sorted(seen), where.get()

    same(scenario)
