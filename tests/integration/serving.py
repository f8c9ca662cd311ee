"""A server with recorders, and sockets connected to it."""

import asyncio
import socket

from peers import PATIENCE_S, Recorder, turns


class Serving:
    """A server with recorders, and sockets connected to it."""

    def __init__(self, make=Recorder):
        self.make = make
        self.protocols = []
        self.peers = []

    async def start(self, **options):
        self.server = await asyncio.get_running_loop().create_server(self._made, "127.0.0.1", 0, **options)
        self.address = self.server.sockets[0].getsockname()
        return self

    def _made(self):
        self.protocols.append(self.make())
        return self.protocols[-1]

    async def dial(self, count=1):
        for _ in range(count):
            self.peers.append(socket.create_connection(self.address, PATIENCE_S))
            while len(self.protocols) < len(self.peers):
                await asyncio.sleep(0)
            await self.protocols[-1].until(lambda: self.protocols[-1].transport is not None)
        return self.protocols[-1] if self.protocols else None

    async def end(self):
        self.server.close()
        for peer in self.peers:
            peer.close()
        for protocol in self.protocols:
            if protocol.transport is not None and not protocol.lost.done():
                protocol.transport.abort()
                await protocol.lost
        await asyncio.wait_for(self.server.wait_closed(), 5)


async def settle():
    """Time for whatever can happen by itself."""
    await asyncio.sleep(0.02)
    await turns(5)
