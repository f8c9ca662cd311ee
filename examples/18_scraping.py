# requires: aiohttp, bs4
"""Scraping: follow the links of a small site and read tables with BeautifulSoup."""

import asyncio
from urllib.parse import urljoin

import aiohttp
from aiohttp import web
from bs4 import BeautifulSoup

TOWNS = {"oslo": 717, "bergen": 291, "tromso": 78, "narvik": 22}


async def index(request):
    links = "".join(f'<li><a href="town/{name}">{name.title()}</a></li>' for name in TOWNS)
    return web.Response(text=f"<title>Towns</title><ul>{links}</ul>", content_type="text/html")


async def town(request):
    name = request.match_info["name"]
    row = f"<tr><th>People</th><td>{TOWNS[name]} 000</td></tr>"
    text = f'<title>{name.title()}</title><table>{row}</table><a href="/">back</a>'
    return web.Response(text=text, content_type="text/html")


async def soup(session, url):
    async with session.get(url) as response:
        return BeautifulSoup(await response.text(), "html.parser")


async def scrape(session, url):
    page = await soup(session, url)
    return page.title.string, page.select_one("td").string


async def main():
    app = web.Application()
    app.add_routes([web.get("/", index), web.get("/town/{name}", town)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    start = "http://{}:{}/".format(*runner.addresses[0])

    async with aiohttp.ClientSession() as session:
        front = await soup(session, start)
        print("front page:", front.title.string)
        urls = [urljoin(start, link["href"]) for link in front.select("li a")]
        for title, people in await asyncio.gather(*(scrape(session, url) for url in urls)):
            print(f"{title}: {people}")
    await runner.cleanup()


asyncio.run(main())
