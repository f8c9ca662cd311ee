"""Run examples/demo_crawl.py on aioxide and then on asyncio, and compare what it stored.

    python tools/demo.py [--pages N] [--concurrency N]

Exit code 1 unless the first loop is native, the second one is asyncio's own, and both databases
and folders of files hold the same. The hashes are computed here, from what is on the disk.
"""

import argparse
import hashlib
import json
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path("examples", "demo_crawl.py")
RUN_TIMEOUT_S = 300


class Failed(Exception):
    """The demo has not shown what it should; the message says what is wrong."""


def crawl(name, launcher, options, folder):
    """One run of the program; its summary, with the hashes of what it stored."""
    out, summary_file = folder / name, folder / f"{name}.json"
    program = [*launcher, str(PROGRAM), *options]
    print(f"$ python {' '.join(program)}", flush=True)
    command = [sys.executable, *program, "--out", str(out), "--json", str(summary_file)]
    try:
        returncode = subprocess.run(command, cwd=ROOT, timeout=RUN_TIMEOUT_S).returncode
    except subprocess.TimeoutExpired:
        raise Failed(f"the run on {name} did not end within {RUN_TIMEOUT_S} s") from None
    print(flush=True)
    if returncode:
        raise Failed(f"the run on {name} ended with exit code {returncode}")
    summary = json.loads(summary_file.read_text(encoding="utf-8"))
    summary["rows"] = hash_of_rows(out / "crawl.sqlite")
    summary["files"] = hash_of_files(out / "pages")
    return summary


def hash_of_rows(path):
    """A hash over all rows of all tables, sorted: the order of insertion does not matter."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = [name for (name,) in names]
        rows = [json.dumps([table, *row]) for table in tables for row in database.execute(f'SELECT * FROM "{table}"')]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def hash_of_files(folder):
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def check(native, stock):
    """Raise Failed unless the runs are what they should be."""
    if not native["loop"].startswith("aioxide.") or native["loop_is_base_event_loop"]:
        raise Failed(f"the loop under `python -m aioxide` is not native: {native['loop']}")
    if not stock["loop"].startswith("asyncio.") or not stock["loop_is_base_event_loop"]:
        raise Failed(f"the loop under plain `python` is not asyncio's own: {stock['loop']}")
    if not native["pages"] or not native["links"]:
        raise Failed("nothing was crawled")
    for what in ("rows", "files"):
        if native[what] != stock[what]:
            raise Failed(f"the {what} differ: sha256 {native[what]} and {stock[what]}")
    if native["rows_sha256"] != stock["rows_sha256"]:
        raise Failed("the hashes that the programs computed themselves differ")


def table(native, stock):
    wall, cpu = (f"{key}_seconds" for key in ("wall", "cpu"))
    yield ("", "pages", "links", "seconds", "CPU s", "rows sha256", "loop")
    for name, run in (("aioxide", native), ("asyncio", stock)):
        yield (
            name, str(run["pages"]), str(run["links"]), f"{run[wall]:.2f}", f"{run[cpu]:.2f}",
            run["rows"][:12], run["loop"],
        )  # fmt: skip


def show(rows):
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def main(argv=None):
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", metavar="N", default="400", help="default 400")
    parser.add_argument("--concurrency", metavar="N", default="50", help="default 50")
    given = parser.parse_args(argv)
    options = ["--pages", given.pages, "--concurrency", given.concurrency]
    try:
        with tempfile.TemporaryDirectory(prefix="aioxide-demo-") as name:
            folder = Path(name)
            native = crawl("aioxide", ["-m", "aioxide"], options, folder)
            stock = crawl("asyncio", [], options, folder)
        check(native, stock)
    except Failed as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    show(table(native, stock))
    print("The rows and the files are the same; the first loop is native, the second asyncio's.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
