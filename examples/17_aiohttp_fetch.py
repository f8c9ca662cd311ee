# requires: aiohttp
"""aiohttp: fetch many pages at once through one session, from a server in the same program."""

import asyncio
import time

import aiohttp
from aiohttp import web

PAGES = 50
THINKING_SECONDS = 0.05


async def page(request):
    number = int(request.match_info["number"])
    await asyncio.sleep(THINKING_SECONDS)
    if number % 10 == 7:
        raise web.HTTPNotFound
    return web.json_response({"page": number, "text": "lorem " * number})


async def fetch(session, url):
    async with session.get(url) as response:
        if response.status != 200:
            return response.status, 0
        return response.status, len((await response.json())["text"])


async def main():
    app = web.Application()
    app.add_routes([web.get("/{number}", page)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]

    start = time.monotonic()
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        answers = await asyncio.gather(*(fetch(session, f"/{n}") for n in range(PAGES)))
    together = time.monotonic() - start
    await runner.cleanup()

    statuses = [status for status, _ in answers]
    print("fetched:", statuses.count(200), "not found:", statuses.count(404))
    print("characters:", sum(length for _, length in answers))
    print("faster than one after the other:", together < PAGES * THINKING_SECONDS)


asyncio.run(main())
