"""Random programs of `sock_*` calls: no byte is lost or doubled, however often a receive is cancelled."""

import asyncio
import random
import socket
import sys

import pytest
from differential import awaited
from peers import tcp_pair, turns

SIZE = 200_000


def receives(loop, sock, chance):
    """One receive of some kind and size; a coroutine for the bytes."""

    async def into(size):
        buffer = bytearray(size)
        count = await loop.sock_recv_into(sock, buffer)
        return bytes(buffer[:count])

    async def from_(size):
        data, _ = await loop.sock_recvfrom(sock, size)
        return data

    async def from_into(size):
        buffer = bytearray(size)
        count, _ = await loop.sock_recvfrom_into(sock, buffer)
        return bytes(buffer[:count])

    kinds = [lambda size: awaited(loop.sock_recv(sock, size)), into]
    if sys.version_info >= (3, 11):
        kinds += [from_, from_into]
    return chance.choice(kinds)(chance.choice([1, 100, 2000]))


async def send(loop, sock, data, chance):
    at = 0
    while at < len(data):
        end = min(len(data), at + chance.choice([1, 10, 300, 5000]))
        await loop.sock_sendall(sock, chance.choice([bytes, bytearray, memoryview])(data[at:end]))
        at = end
        await turns(chance.randrange(4))


async def receive(loop, sock, chance, cancels):
    received = bytearray()
    cancelled = 0
    while True:
        task = asyncio.ensure_future(receives(loop, sock, chance))
        if cancels and chance.random() < 0.5:
            # Before it starts, while it waits, when it was woken, or when it is over.
            await turns(chance.randrange(5))
            task.cancel()
        try:
            data = await task
        except asyncio.CancelledError:
            cancelled += 1
            continue
        if not data:
            return bytes(received), cancelled
        received += data


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # cancelled before it starts
@pytest.mark.parametrize("cancels", [False, pytest.param(True, marks=pytest.mark.aioxide_only)])  # asyncio loses data
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("seed", range(3))
def test_both_directions_arrive_whole(run, kind, cancels, seed):
    async def main():
        loop = asyncio.get_running_loop()
        chance = random.Random(seed)
        ends = tcp_pair() if kind == "tcp" else socket.socketpair()
        sent = [chance.randbytes(SIZE) for _ in ends]
        for sock in ends:
            sock.setblocking(False)

        async def write(sock, data):
            await send(loop, sock, data, chance)
            sock.shutdown(socket.SHUT_WR)

        *_, one, other = await asyncio.gather(
            *map(write, ends, sent), *(receive(loop, sock, chance, cancels) for sock in ends)
        )
        assert one[0] == sent[1] and other[0] == sent[0]
        assert (one[1] + other[1] > 0) is cancels
        for sock in ends:
            assert loop.remove_reader(sock) is False and loop.remove_writer(sock) is False
            sock.close()

    run(main)


@pytest.mark.aioxide_only  # asyncio drops the connection it has accepted
@pytest.mark.parametrize("seed", range(3))
def test_no_connection_is_lost_by_cancelled_accepts(run, seed):
    count = 100

    async def main():
        loop = asyncio.get_running_loop()
        chance = random.Random(seed)
        with socket.create_server(("127.0.0.1", 0), backlog=count) as listener:
            listener.setblocking(False)
            clients, accepted = [], []

            async def dial():
                for _ in range(count):
                    client = socket.socket()
                    client.setblocking(False)
                    await loop.sock_connect(client, listener.getsockname())
                    clients.append(client)
                    await turns(chance.randrange(6))

            dialling = asyncio.ensure_future(dial())
            while len(accepted) < count:
                task = asyncio.ensure_future(awaited_accept(loop, listener))
                if chance.random() < 0.5:
                    await turns(chance.randrange(1, 5))
                    task.cancel()
                try:
                    connection, _ = await task
                except asyncio.CancelledError:
                    continue
                accepted.append(connection)
            await dialling
            names = sorted(client.getsockname() for client in clients)
            assert sorted(connection.getpeername() for connection in accepted) == names
            for sock in clients + accepted:
                sock.close()

    run(main)


async def awaited_accept(loop, listener):
    return await loop.sock_accept(listener)
