"""The applications' rows: what users run, with hello world as their handler, so that the loop's share is as large as it gets.

The packages are imported by the row that needs them: without one, its row shows a dash and says why.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from benches.row import Load
from benches.rows_network import Stop, served

GET = "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: benches\r\nAccept: */*\r\n\r\n"


async def hello(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def uvicorn_server(parser: str, sock: socket.socket, stop: Stop) -> None:
    import uvicorn

    config = uvicorn.Config(
        hello, http=parser, ws="none", loop="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([sock]))
    await asyncio.wait({stop, serving}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving


async def aiohttp_server(sock: socket.socket, stop: Stop) -> None:
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.json_response({"hello": "world"})

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, handle_signals=False, access_log=None)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    await stop
    await runner.cleanup()


LOAD = Load(connections=50, request=GET, answer=-1)

ROWS = [
    served("uvicorn-h11", "uvicorn, h11: hello", partial(uvicorn_server, "h11"), LOAD, "applications", goal=1.15),
    served(
        "uvicorn-httptools",
        "uvicorn, httptools: hello",
        partial(uvicorn_server, "httptools"),
        LOAD,
        "applications",
        goal=1.15,
    ),
    served("aiohttp", "aiohttp: hello in JSON", aiohttp_server, LOAD, "applications", goal=1.05),
]
