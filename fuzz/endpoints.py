"""Steps of what is no TCP connection: unix sockets, datagrams, pipes and files."""

import asyncio
import os
import socket
import tempfile
import time

from .connections import INSIDE, Connection, Listening, payload, transport_step
from .operations import index, one_of, operation, up_to
from .world import describe

# --- unix sockets ----------------------------------------------------------------------------------


@operation(0.7, one_of(*INSIDE), one_of("path", "abstract", "again", "sock"), feature="unix", rests=True)
def serve_unix(world, inside, how):
    listening = Listening(world, inside)
    path = os.path.join(world.folder(), f"{world.number('path')}")
    if how == "abstract":
        path = f"\0fuzz-{os.getpid()}-{time.monotonic_ns()}"
    elif how == "again":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
    if how == "sock":
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        making = world.loop.create_unix_server(listening.make_protocol, sock=sock)
    else:
        making = world.loop.create_unix_server(listening.make_protocol, path)

    async def start():
        count = await listening.start(making)
        listening.is_unix, listening.path = True, path
        return count

    world.spawn(listening.channel, start())


def unix_servers(world):
    return [one for one in world.servers if one.server is not None and one.is_unix]


@operation(1.5, index, one_of(*INSIDE), feature="unix", rests=True)
def dial_unix(world, at, inside):
    listening = world.pick(unix_servers(world), at)
    if listening is not None and listening.server.is_serving():
        connection = Connection(world, inside=inside, name="u")
        making = world.loop.create_unix_connection(connection.protocol, listening.path)
        world.spawn(connection.channel, making, shows=lambda made: "connected")


@operation(0.3, index, feature="unix", rests=True)
def close_unix(world, at):
    if (listening := world.pick(unix_servers(world), at)) is not None:
        listening.server.close()
        world.note(listening.channel, "path", os.path.exists(listening.path.replace("\0", "/")))


@operation(0.3, one_of("missing", "long", "none", "file"), feature="unix", rests=True)
def unix_wrong(world, what):
    path = {"missing": "/nonexistent/path", "long": "/" + "x" * 200, "none": None}.get(what, __file__)
    world.spawn("unix", world.loop.create_unix_connection(asyncio.Protocol, path))
    world.spawn("unix server", world.loop.create_unix_server(asyncio.Protocol, path))


# --- datagrams -------------------------------------------------------------------------------------


class Endpoint(asyncio.DatagramProtocol):
    """An endpoint, and a plain socket that it talks with."""

    def __init__(self, world, raises):
        self.world, self.raises = world, raises
        self.channel = f"udp{world.number('udp')}"
        self.transport = None
        self.received = self.expected = self.sent = 0
        self.peer = socket.socket(type=socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        self.peer.setblocking(False)
        self.lost = False
        world.endpoints.append(self)
        world.cleaning += [self.peer.close, lambda: self.transport and self.transport.abort()]

    def connection_made(self, transport):
        self.transport = transport
        self.world.note(self.channel, "made")

    def datagram_received(self, data, address):
        self.received += 1
        self.world.note(self.channel, "got", data, address == self.peer.getsockname())
        if self.raises:
            raise ValueError("datagram")

    def error_received(self, error):
        self.world.note(self.channel, "error", describe(error))

    def pause_writing(self):
        self.world.note(self.channel, "pause")

    def resume_writing(self):
        self.world.note(self.channel, "resume")

    def connection_lost(self, error):
        self.lost = True
        self.world.note(self.channel, "lost", describe(error))


def endpoint_step(weight, *draws, outside=False, rests=True):
    def enter(function):
        def step(world, at, *rest):
            endpoint = world.pick([one for one in world.endpoints if one.transport is not None], at)
            if endpoint is None or endpoint.lost:  # asyncio's fails in its inside after its end
                return
            try:
                function(world, endpoint, *rest)
            except Exception as error:
                world.note(endpoint.channel, function.__name__, describe(error))

        step.__name__ = function.__name__
        return operation(weight, index, *draws, feature="datagram", outside=outside, rests=rests)(step)

    return enter


@operation(1, up_to(2), up_to(2), feature="datagram", rests=True)
def endpoint(world, connected, raises):
    made = Endpoint(world, raises and connected)
    remote = made.peer.getsockname() if connected else None
    made.remote = remote
    making = world.loop.create_datagram_endpoint(lambda: made, ("127.0.0.1", 0), remote)
    world.spawn(made.channel, making, shows=lambda both: "made")


@endpoint_step(3, one_of(0, 1, 1000, 70_000), up_to(2), rests=False)
def datagram_send(world, endpoint, size, named):
    endpoint.sent += 1
    address = endpoint.peer.getsockname() if named or endpoint.remote is None else None
    endpoint.transport.sendto(payload(endpoint.sent, size), address)


@endpoint_step(3, one_of(0, 1, 1000), up_to(3), outside=True)
def datagram_peer_send(world, endpoint, size, more):
    if endpoint.transport.is_closing() or endpoint.peer.fileno() < 0:
        return
    for _ in range(more + 1):
        endpoint.expected += 1
        address = endpoint.transport.get_extra_info("sockname")
        endpoint.peer.sendto(payload(endpoint.expected, size), address)
    world.expect(lambda: endpoint.lost or endpoint.received >= endpoint.expected)


@endpoint_step(2, outside=True)
def datagram_peer_read(world, endpoint):
    for _ in range(100):
        try:
            data = endpoint.peer.recv(100_000)
        except (BlockingIOError, OSError) as error:
            world.note(endpoint.channel + " peer", type(error).__name__)
            return
        world.note(endpoint.channel + " peer", "got", data)


@endpoint_step(0.4, outside=True)
def datagram_refused(world, endpoint):
    """Nobody is there any more: who is connected is told so at the next call."""
    endpoint.peer.close()


@endpoint_step(0.4, one_of("close", "abort"))
def datagram_end(world, endpoint, how):
    getattr(endpoint.transport, how)()


@endpoint_step(0.3, one_of("text", "address", "number"), rests=False)
def datagram_wrong(world, endpoint, what):
    endpoint.transport.sendto("text" if what == "text" else b"x", {"address": ("127.0.0.2", 9), "number": 5}.get(what))


# --- pipes -----------------------------------------------------------------------------------------


class Pipe:
    """A pipe one of whose ends is a transport; the other is the steps'."""

    def __init__(self, world, reads):
        self.world = world
        self.channel = f"pipe transport{world.number('pipe transport')}"
        self.transport = None
        self.received = self.expected = self.sent = 0
        self.lost = False
        reader, writer = os.pipe()
        self.mine, self.other = (reader, writer) if reads else (writer, reader)
        self.reads = reads
        os.set_blocking(self.other, False)
        self.file = os.fdopen(self.mine, "rb" if reads else "wb", 0)
        self.is_open = True
        world.pipes.append(self)
        world.cleaning += [self.close_other, lambda: self.transport and not self.lost and self.end()]

    def end(self):
        (self.transport.close if self.reads else self.transport.abort)()

    def close_other(self):
        if self.is_open:
            self.is_open = False
            os.close(self.other)


class PipeProtocol(asyncio.Protocol):
    def __init__(self, pipe):
        self.pipe = pipe

    def _note(self, *event):
        self.pipe.world.note(self.pipe.channel, *event)

    def connection_made(self, transport):
        self.pipe.transport = transport
        self._note("made")

    def data_received(self, data):
        self.pipe.received += len(data)
        self._note("data", data)

    def eof_received(self):
        self._note("eof")

    def pause_writing(self):
        self._note("pause")

    def resume_writing(self):
        self._note("resume")

    def connection_lost(self, error):
        self.pipe.lost = True
        self._note("lost", describe(error))


@operation(1, up_to(2), feature="pipes", rests=True)
def pipe(world, reads):
    made = Pipe(world, reads)
    connect = world.loop.connect_read_pipe if reads else world.loop.connect_write_pipe
    world.spawn(made.channel, connect(lambda: PipeProtocol(made), made.file), shows=lambda both: "connected")


def pipe_step(weight, *draws, reads=None, outside=False, rests=False):
    def enter(function):
        def step(world, at, *rest):
            pipes = [one for one in world.pipes if one.transport is not None and reads in (None, bool(one.reads))]
            # After its end asyncio's transport fails in its inside.
            if (pipe := world.pick(pipes, at)) is None or pipe.lost:
                return
            try:
                answer = function(world, pipe, *rest)
            except Exception as error:
                answer = describe(error)
            if answer is not None:
                world.note(pipe.channel, function.__name__, answer)

        step.__name__ = function.__name__
        return operation(weight, index, *draws, feature="pipes", outside=outside, rests=rests)(step)

    return enter


@pipe_step(3, one_of(1, 1000, 5000, 30_000), reads=True, outside=True)
def pipe_peer_write(world, pipe, size):
    if pipe.is_open and not pipe.lost and pipe.expected - pipe.received < 30_000:
        pipe.expected += os.write(pipe.other, payload(pipe.expected, size))


@pipe_step(3, one_of(0, 1, 5000, 100_000), reads=False)
def pipe_write(world, pipe, size):
    pipe.sent += 1
    pipe.transport.write(payload(pipe.sent, size))


@pipe_step(2, reads=False, outside=True, rests=True)
def pipe_peer_read(world, pipe):
    idle = 0
    while pipe.is_open and idle < 4:
        world.turn()
        try:
            data = os.read(pipe.other, 1 << 20)
        except BlockingIOError:
            idle += 1
            continue
        world.note(pipe.channel + " peer", "data", data)
        idle = 0 if data else 4


@pipe_step(2, one_of("pause_reading", "resume_reading", "is_closing"), reads=True)
def pipe_flow(world, pipe, call):
    return getattr(pipe.transport, call)()


@pipe_step(1, one_of("write_eof", "can_write_eof", "is_closing", "close"), reads=False)
def pipe_writer_call(world, pipe, call):
    return getattr(pipe.transport, call)()


@pipe_step(0.4, outside=True, rests=True)
def pipe_peer_end(world, pipe):
    pipe.close_other()


@pipe_step(0.4, rests=True)
def pipe_end(world, pipe):
    pipe.transport.close()


@operation(0.2, up_to(2), feature="pipes", rests=True)
def pipe_wrong(world, reads):
    """A regular file is refused."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    world.cleaning.append(file.close)
    connect = world.loop.connect_read_pipe if reads else world.loop.connect_write_pipe
    world.spawn("pipes", connect(asyncio.Protocol, file))


# --- files -----------------------------------------------------------------------------------------


def make_file(world, size):
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(payload(5, size))
    file.seek(0)
    world.cleaning.append(file.close)
    return file


windows = one_of((0, None), (0, 10), (100, None), (100, 500), (10_000, 5), (-1, None), (0, 0), (0, -1))


@transport_step(1, one_of(0, 3000), windows, up_to(2), rests=True, feature="sendfile")
def sendfile(connection, transport, size, window, fallback):
    world = connection.world
    if connection.had_backlog or transport.get_write_buffer_size():
        return  # it might never end, and asyncio's transport does not read again when it is cancelled
    file = make_file(world, size)
    come = world.awaiting()

    async def send():
        try:
            return await world.loop.sendfile(transport, file, *window, fallback=bool(fallback))
        finally:
            world.note(connection.channel + " file", file.tell())

    world.spawn(connection.channel + " file", send()).add_done_callback(lambda task: come())


@operation(0.7, one_of(0, 3000), windows, up_to(2), feature="sendfile", rests=True)
def sock_sendfile(world, size, window, fallback):
    here, there = socket.socketpair()
    world.cleaning += [here.close, there.close]
    here.setblocking(False)
    there.setblocking(False)
    file = make_file(world, size)

    async def send():
        try:
            return await world.loop.sock_sendfile(here, file, *window, fallback=bool(fallback))
        finally:
            world.note("files", file.tell())
            here.close()
            world.note("files", sum(iter(lambda: len(there.recv(1 << 16)), 0)))

    come = world.awaiting()
    world.spawn("files", send()).add_done_callback(lambda task: come())
