"""Steps of plain sockets: `sock_*`, watched descriptors, and streams. Each socket is a channel."""

import asyncio
import os
import socket
import sys

from .connections import payload, tcp_pair
from .operations import index, one_of, operation, up_to
from .world import describe


class Plain:
    """A socket for `sock_*`, and the one it is connected with. One call of each direction at a time."""

    def __init__(self, world, here, there):
        self.world, self.here, self.there = world, here, there
        self.channel = f"s{world.number('s')}"
        self.receiving = self.sending = None
        self.sent = 0
        for sock in (here, there):
            sock.setblocking(False)
            world.cleaning.append(sock.close)
        world.sockets.append(self)


def is_free(task):
    return task is None or task.done()


@operation(1.5, one_of("unix", "tcp"))
def sock(world, family):
    Plain(world, *(socket.socketpair() if family == "unix" else tcp_pair()))


def sock_step(weight, *draws, since=(3, 10), outside=False, rests=False):
    def enter(function):
        def step(world, at, *rest):
            if (plain := world.pick(world.sockets, at)) is not None:
                function(world, plain, *rest)

        step.__name__ = function.__name__
        return operation(weight, index, *draws, since=since, outside=outside, rests=rests)(step)

    return enter


@sock_step(4, one_of(1, 10, 3000), one_of("recv", "recv_into", "recvfrom", "recvfrom_into"))
def sock_recv(world, plain, size, kind):
    if not is_free(plain.receiving) or (kind.startswith("recvfrom") and sys.version_info < (3, 11)):
        return

    async def receive():
        call = getattr(world.loop, f"sock_{kind}")
        if not kind.endswith("into"):
            got = await call(plain.here, size)
            return got[0] if kind == "recvfrom" else got
        buffer = bytearray(size)
        got = await call(plain.here, buffer)
        return bytes(buffer[: got[0] if kind == "recvfrom_into" else got])

    plain.receiving = world.spawn(plain.channel, receive())


@sock_step(3, one_of(0, 1, 5000), up_to(8), rests=True)
def sock_sendall(world, plain, size, much):
    if is_free(plain.sending):
        size = 400_000 if not much and plain.here.family == socket.AF_UNIX else size
        plain.sent += 1
        sending = world.loop.sock_sendall(plain.here, payload(plain.sent, size))
        plain.sending = world.spawn(plain.channel + " sends", sending)


@sock_step(3, sizes := one_of(1, 10, 3000), outside=True, rests=True)
def sock_peer_send(world, plain, size):
    plain.there.send(payload(plain.sent, size))
    world.expect(lambda: is_free(plain.receiving))


@sock_step(2, outside=True, rests=True)
def sock_peer_read(world, plain):
    idle = 0
    while idle < 4:
        world.turn()
        try:
            data = plain.there.recv(1 << 20)
        except BlockingIOError:
            idle += 1
        except OSError as error:
            world.note(plain.channel + " peer", describe(error))
            return
        else:
            world.note(plain.channel + " peer", "data", data)
            if not data:
                return
            idle = 0


@sock_step(1, up_to(2), rests=True)
def sock_cancel(world, plain, direction):
    """Only at rest: what a receive that is cancelled with data on its way has taken is told by no one."""
    task = (plain.receiving, plain.sending)[direction]
    if not is_free(task):
        world.note(plain.channel, "cancel", task.cancel())


@sock_step(0.3, outside=True, rests=True)
def sock_peer_end(world, plain):
    plain.there.close()
    world.expect(lambda: is_free(plain.receiving))


@operation(0.6, up_to(2), rests=True)
def sock_accept(world, before):
    """A connection accepted, the client before or after the call."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    client = socket.socket()
    client.setblocking(False)
    world.cleaning += [listener.close, client.close]
    channel = f"accept{world.number('accept')}"

    async def accept():
        sock, address = await world.loop.sock_accept(listener)
        Plain(world, sock, client)
        return address == client.getsockname(), sock.gettimeout()

    accepting = world.spawn(channel, accept()) if before else None
    world.spawn(channel + " client", world.loop.sock_connect(client, listener.getsockname()))
    if accepting is None:
        accepting = world.spawn(channel, accept())
    world.expect(accepting.done)


@operation(0.3, rests=True)
def sock_refused(world):
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    client = socket.socket()
    client.setblocking(False)
    world.cleaning.append(client.close)
    task = world.spawn("refused", world.loop.sock_connect(client, address))
    world.expect(task.done)


@operation(0.2, one_of("blocking", "closed", "bytes", "none"), rests=True)
def sock_wrong(world, what):
    sock = socket.socket()
    world.cleaning.append(sock.close)
    if what == "closed":
        sock.close()
    world.spawn("wrong", world.loop.sock_recv(None if what == "none" else sock, "x" if what == "bytes" else 1))


# --- watched descriptors ---------------------------------------------------------------------------


class Watched:
    """A pair of sockets of which one is watched. The reader takes a byte each time, and the writer goes by itself."""

    def __init__(self, world):
        self.world = world
        self.here, self.there = socket.socketpair()
        self.channel = f"w{world.number('w')}"
        self.sent = self.taken = 0
        for sock in (self.here, self.there):
            sock.setblocking(False)
            world.cleaning.append(sock.close)
        world.cleaning.append(lambda: (world.loop.remove_reader(self.here), world.loop.remove_writer(self.here)))
        world.watched.append(self)

    def reader(self, name, removes):
        def readable():
            try:
                data = self.here.recv(3)
            except OSError as error:
                data = repr(describe(error)).encode()
            self.taken += len(data)
            self.world.note(self.channel, name, data)
            if removes or not data or data[:1] == b"[":
                self.world.note(self.channel, "removed", self.world.loop.remove_reader(self.here))

        return readable

    def writer(self, name):
        def writable():
            self.world.note(self.channel + " writes", name, self.world.loop.remove_writer(self.here))

        return writable


@operation(1)
def watch(world):
    Watched(world)


def watch_step(weight, *draws, outside=False, rests=False):
    def enter(function):
        def step(world, at, *rest):
            if (watched := world.pick(world.watched, at)) is not None:
                function(world, watched, *rest)

        step.__name__ = function.__name__
        return operation(weight, index, *draws, outside=outside, rests=rests)(step)

    return enter


@watch_step(3, up_to(4))
def add_reader(world, watched, removes):
    world.loop.add_reader(watched.here, watched.reader(f"reader {world.number('reader')}", not removes))


@watch_step(2, up_to(2))
def add_writer(world, watched, by_number):
    target = watched.here.fileno() if by_number else watched.here
    world.loop.add_writer(target, watched.writer(f"writer {world.number('writer')}"))


@watch_step(1.5)
def remove_reader(world, watched):
    world.note(watched.channel, "remove", world.loop.remove_reader(watched.here))


@watch_step(1)
def remove_writer(world, watched):
    world.note(watched.channel + " writes", "remove", world.loop.remove_writer(watched.here))


@watch_step(3, up_to(5), outside=True)
def watch_peer_send(world, watched, count):
    if watched.there.fileno() >= 0:
        watched.there.send(payload(watched.sent, count))
        watched.sent += count


@watch_step(0.3, outside=True, rests=True)
def watch_peer_end(world, watched):
    watched.there.close()


@operation(0.3, one_of("reader", "writer"), one_of(-1, 1 << 20, "text", None))
def watch_wrong(world, way, what):
    getattr(world.loop, f"add_{way}")(what, print)


# --- streams ---------------------------------------------------------------------------------------


@operation(1, up_to(4), one_of(16, 1 << 16), rests=True)
def streams(world, how, limit):
    """One stream of asyncio's on a pair of sockets: lines, blocks, a limit that is too low, an end too early."""
    here, there = socket.socketpair()
    there.setblocking(False)
    channel = f"stream{world.number('stream')}"
    world.cleaning.append(there.close)

    async def talk():
        reader, writer = await asyncio.open_connection(sock=here, limit=limit)
        try:
            writer.write(b"one\n")
            writer.writelines([b"two\n", b"three"])
            await writer.drain()
            there.send(b"answer\nof thirty bytes and more....\nend")
            if how == 3:
                there.close()
            else:
                there.shutdown(socket.SHUT_WR)
            for _ in range(4):
                try:
                    if how == 0:
                        got = await reader.readline()
                    elif how == 1:
                        got = await reader.readexactly(10)
                    elif how == 2:
                        got = await reader.readuntil(b"e")
                    else:
                        got = await reader.read()
                    world.note(channel, got)
                except Exception as error:
                    world.note(channel, describe(error))
            if how != 3:
                world.note(channel, there.recv(100))
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError as error:
                world.note(channel, describe(error))

    world.spawn(channel, talk())


@operation(0.3, up_to(2), rests=True)
def read_pipe_by_reader(world, closes):
    """A pipe watched from one callback to the next, its descriptor closed after it is removed."""
    reader, writer = os.pipe()
    channel = f"pipe{world.number('pipe')}"

    def readable():
        data = os.read(reader, 2)
        world.note(channel, data)
        if not data:
            world.note(channel, world.loop.remove_reader(reader))
            os.close(reader)

    world.loop.add_reader(reader, readable)
    os.write(writer, b"12345")
    if closes:
        os.close(writer)
    else:
        world.loop.call_soon(os.close, writer)
