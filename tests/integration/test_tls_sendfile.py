"""`loop.sendfile` over TLS: what arrives, where the file is left, and how it ends early.

Where asyncio decides, the scenario runs on both loops of this Python and is compared (`same`).
"""

import asyncio
import io

import pytest
from differential import outcome
from files import CONTENT
from peers import reset, turns
from tls import VERSIONS, drop, same, secure

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("part", [{}, {"offset": 1000}, {"count": 5000}, {"offset": 70_001, "count": 131_072}])
def test_sendfile(certs, sent_file, version, part):
    async def scenario():
        loop = asyncio.get_running_loop()
        protocol, peer = await secure(certs, version=version)
        protocol.transport.write(b"before")
        start = part.get("offset", 0)
        expected = CONTENT[start : start + part.get("count", len(CONTENT))]
        with open(sent_file, "rb") as file:
            receiving = asyncio.ensure_future(peer.receive(len(expected) + 11))
            sent = await outcome(loop.sendfile(protocol.transport, file, **part))
            position = file.tell()
        protocol.transport.write(b"after")
        data = await receiving
        assert protocol.transport.get_protocol() is protocol
        await peer.send(b"reading goes on")
        await protocol.until_received(15)
        await drop(protocol, peer)
        return sent, position, data == b"before" + expected + b"after"

    assert same(scenario)["result"][2]


def test_sendfile_without_a_fallback(certs, sent_file):
    async def scenario():
        loop = asyncio.get_running_loop()
        protocol, peer = await secure(certs)
        with open(sent_file, "rb") as file:
            seen = [
                await outcome(loop.sendfile(protocol.transport, file, fallback=False)),
                await outcome(loop.sendfile(protocol.transport, file, offset=-1)),
                await outcome(loop.sendfile(protocol.transport, io.BytesIO(b"in memory"))),
                await outcome(loop.sendfile(protocol.transport, io.StringIO("text"))),
                await outcome(loop.sendfile(protocol.transport, None)),
            ]
            protocol.transport.close()
            seen.append(await outcome(loop.sendfile(protocol.transport, file)))
        assert await peer.receive(9) == b"in memory"
        await drop(protocol, peer)
        return [(kind, what if kind == "is" else what[0]) for kind, what in seen]

    same(scenario)


@pytest.mark.parametrize(
    "what",
    [pytest.param("aborted", marks=pytest.mark.aioxide_only), "lost", "cancelled"],  # asyncio's waits for ever
)
def test_sendfile_that_does_not_end(run, certs, large_file, what):
    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await secure(certs)
        protocol.transport.set_write_buffer_limits(high=1)
        with open(large_file, "rb") as file:
            task = asyncio.ensure_future(loop.sendfile(protocol.transport, file))
            await peer.receive(100_000)
            if what == "aborted":
                protocol.transport.abort()
            elif what == "lost":
                reset(peer.sock)
            else:
                task.cancel()
            kind, result = await outcome(asyncio.wait_for(task, 5))
            assert kind == "raises"
            lost = ("ConnectionError", "ConnectionResetError", "BrokenPipeError")
            assert result[0] in (("CancelledError",) if what == "cancelled" else lost)
        protocol.transport.abort()
        await turns(5)
        peer.close()

    run(main)
