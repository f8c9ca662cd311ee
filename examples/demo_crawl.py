"""Crawl a generated site of some hundreds of linked pages into SQLite and files.

A plain asyncio program. An aiohttp server on a free port of 127.0.0.1 serves the site; an aiohttp
client crawls it concurrently, level by level; BeautifulSoup parses; aiosqlite stores the tables
`pages` and `links`; aiofiles writes each page to a file. What is stored depends on the number of
pages alone: not on the port, the concurrency or the order in which answers arrive.
"""

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

try:
    import aiofiles
    import aiohttp
    import aiosqlite
    from aiohttp import web
    from bs4 import BeautifulSoup
except ImportError as error:
    sys.exit(f"demo_crawl: {error}; try: pip install aiohttp beautifulsoup4 aiofiles aiosqlite")

SCHEMA = """
CREATE TABLE pages (path TEXT PRIMARY KEY, status INTEGER, title TEXT, total INTEGER,
                    words INTEGER, bytes INTEGER, sha256 TEXT);
CREATE TABLE links (source TEXT, position INTEGER, target TEXT, PRIMARY KEY (source, position));
"""
PAGES_PER_TRANSACTION = 50


# The site: page n follows from n.


def page_links(n, pages):
    """Where page n leads: down a binary tree, so that all are found, and across it."""
    down = [m for m in (2 * n + 1, 2 * n + 2) if m < pages]
    links = [f"/page/{m}" for m in [*down, (n + 17) % pages, 0]]
    if n % 10 == 4:
        links.append(f"/missing/{n}")
    if n % 10 == 6:
        links.append(f"/moved/{n // 2}")
    return links


def page_html(n, pages):
    links = "".join(f'<li><a href="{link}">to {link}</a></li>' for link in page_links(n, pages))
    rows = "".join(f"<tr><td>{n}-{i}</td><td class=value>{n * i}</td></tr>" for i in range(20))
    text = "".join(f"<p>{'lorem ipsum ' * (1 + (n + i) % 7)}</p>" for i in range(40))
    return (
        f"<html><head><title>Page {n}</title></head><body><h1>Page {n}</h1>"
        f"<ul>{links}</ul><table>{rows}</table>{text}</body></html>"
    )


def make_site(pages):
    async def page(request):
        n = int(request.match_info["n"])
        if n >= pages:
            raise web.HTTPNotFound
        if n % 10 == 3:  # slow
            await asyncio.sleep(0.02)
        if n % 7 == 5:  # chunked: of unknown length, in small pieces
            response = web.StreamResponse(headers={"Content-Type": "text/html; charset=utf-8"})
            await response.prepare(request)
            body = page_html(n, pages).encode()
            for start in range(0, len(body), 1000):
                await response.write(body[start : start + 1000])
            await response.write_eof()
            return response
        response = web.Response(text=page_html(n, pages), content_type="text/html")
        if n % 2:
            response.enable_compression()
        return response

    async def moved(request):
        raise web.HTTPFound(f"/page/{request.match_info['n']}")

    app = web.Application()
    app.add_routes([web.get(r"/page/{n:\d+}", page), web.get(r"/moved/{n:\d+}", moved)])
    return app


# The crawler.


def parse(html):
    """Title, sum of the table, number of words, links."""
    soup = BeautifulSoup(html, "html.parser")
    total = sum(int(cell.text) for cell in soup.select("td.value"))
    return soup.title.text, total, len(soup.text.split()), [a["href"] for a in soup.select("a")]


async def fetch(session, path):
    """One address as it is: a redirect is an answer like any other, with one link."""
    async with session.get(path, allow_redirects=False) as response:
        body = await response.read()
        if response.status == 200:
            title, total, words, links = parse(body.decode())
            digest = hashlib.sha256(body).hexdigest()
            return (path, 200, title, total, words, len(body), digest), links, body.decode()
        links = [response.headers["Location"]] if response.status == 302 else []
        return (path, response.status, None, None, None, None, None), links, None


async def store(database, results):
    """Write what comes through the queue, until None comes."""
    stored = 0
    while (result := await results.get()) is not None:
        row, links = result
        await database.execute("INSERT INTO pages VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        await database.executemany(
            "INSERT INTO links VALUES (?, ?, ?)",
            [(row[0], position, target) for position, target in enumerate(links)],
        )
        stored += 1
        if stored % PAGES_PER_TRANSACTION == 0:
            await database.commit()
    await database.commit()


async def crawl(base_url, concurrency, folder, results, progress):
    """Follow links from page 0; each level of them is fetched at once."""
    semaphore = asyncio.Semaphore(concurrency)
    connector = aiohttp.TCPConnector(limit=concurrency)

    async def visit(session, path):
        async with semaphore:
            row, links, html = await fetch(session, path)
            if html is not None:
                name = path.strip("/").replace("/", "-") + ".html"
                async with aiofiles.open(folder / name, "w", encoding="utf-8") as file:
                    await file.write(html)
        results.put_nowait((row, links))
        progress.step()
        return links

    async with aiohttp.ClientSession(base_url, connector=connector) as session:
        level = ["/page/0"]
        seen = set(level)
        while level:
            progress.total = len(seen)
            found = await asyncio.gather(*(visit(session, path) for path in level))
            # dict.fromkeys: without duplicates, in order.
            level = [p for p in dict.fromkeys(chain.from_iterable(found)) if p not in seen]
            seen.update(level)


class Progress:
    """On a terminal a bar that is redrawn; elsewhere a line for every hundred pages."""

    def __init__(self, stream):
        self.stream = stream
        self.is_terminal = stream.isatty()
        self.done = self.total = 0
        self.drawn_at = 0.0

    def step(self):
        self.done += 1
        if self.is_terminal:
            now = time.monotonic()
            if now - self.drawn_at > 0.05:
                self.drawn_at = now
                self.draw()
        elif self.done % 100 == 0:
            print(f"crawled {self.done} pages", file=self.stream, flush=True)

    def draw(self):
        counts = f" {self.done} of {self.total} found"
        width = max(0, min(40, shutil.get_terminal_size().columns - len(counts) - 3))
        full = width * self.done // max(1, self.total)
        bar = f"[{'#' * full}{'.' * (width - full)}]" if width else ""
        print(f"\r{bar}{counts}", end="", file=self.stream, flush=True)

    def close(self):
        if self.is_terminal and self.done:
            self.draw()
            print(file=self.stream, flush=True)


async def summarise(database):
    """Counts, and a hash over all rows in order: one line of JSON for each row."""
    digest, counts = hashlib.sha256(), {}
    for table, order in (("pages", "path"), ("links", "source, position")):
        counts[table] = 0
        async with database.execute(f"SELECT * FROM {table} ORDER BY {order}") as rows:
            async for row in rows:
                digest.update(json.dumps([table, *row]).encode() + b"\n")
                counts[table] += 1
    return {**counts, "rows_sha256": digest.hexdigest()}


async def main(pages, concurrency, out):
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(make_site(pages), access_log=None)
    await runner.setup()
    progress = Progress(sys.stderr)
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        async with aiosqlite.connect(out / "crawl.sqlite") as database:
            await database.executescript(SCHEMA)
            folder, results = out / "pages", asyncio.Queue()
            folder.mkdir()
            wall, cpu = time.perf_counter(), time.process_time()
            storing = asyncio.create_task(store(database, results))
            try:
                await crawl(f"http://{host}:{port}", concurrency, folder, results, progress)
            finally:
                results.put_nowait(None)
                await storing
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            summary = await summarise(database)
    finally:
        progress.close()
        await runner.cleanup()
    summary["wall_seconds"] = round(wall, 3)
    summary["cpu_seconds"] = round(cpu, 3)
    summary["loop"] = f"{type(loop).__module__}.{type(loop).__qualname__}"
    summary["loop_is_base_event_loop"] = isinstance(loop, asyncio.BaseEventLoop)
    return summary


# The command line.


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def number(low, high):
    def parse_number(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
        return value

    return parse_number


def arguments(argv):
    parser = OneLineParser(prog="demo_crawl", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--pages",
        type=number(1, 100_000),
        default=400,
        metavar="N",
        help="size of the site, 1 to 100000 (default 400; missing and moved ones come on top)",
    )
    parser.add_argument(
        "--concurrency",
        type=number(1, 256),
        default=50,
        metavar="N",
        help="how many addresses are fetched at once, 1 to 256 (default 50)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where crawl.sqlite and pages/ go; a new or an empty folder "
        "(default: a new one in the folder for temporary files)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary to FILE as JSON, too")
    options = parser.parse_args(argv)
    try:
        if options.out is None:
            options.out = Path(tempfile.mkdtemp(prefix="demo_crawl-"))
        options.out.mkdir(parents=True, exist_ok=True)
        if os.listdir(options.out):
            parser.error(f"argument --out: {options.out} is not empty")
        if options.json:
            options.json.touch()
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    return options


def run(argv=None):
    options = arguments(argv)
    try:
        summary = asyncio.run(main(options.pages, options.concurrency, options.out))
    except KeyboardInterrupt:
        print("demo_crawl: interrupted", file=sys.stderr)
        return 130
    print(f"pages    {summary['pages']}")
    print(f"links    {summary['links']}")
    print(f"seconds  {summary['wall_seconds']:.2f} (CPU {summary['cpu_seconds']:.2f})")
    print(f"loop     {summary['loop']}")
    print(f"results  {options.out}")
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run())
