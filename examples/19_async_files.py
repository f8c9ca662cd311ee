# requires: aiofiles
"""Async files: aiofiles reads and writes in threads, so that a slow disk stalls nobody."""

import asyncio
import tempfile
from pathlib import Path

import aiofiles
import aiofiles.os


async def write(path, lines):
    async with aiofiles.open(path, "w") as file:
        for number in range(lines):
            await file.write(f"{path.stem} line {number}\n")


async def count_lines(path):
    async with aiofiles.open(path) as file:
        return sum([1 async for _ in file])


async def main():
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"file{number}.txt") for number in range(5)]
        await asyncio.gather(*(write(path, 10 * n) for n, path in enumerate(paths)))
        print("files:", *sorted(await aiofiles.os.listdir(folder)))
        print("lines:", *await asyncio.gather(*map(count_lines, paths)))

        async with aiofiles.open(paths[1]) as file:
            print("first line:", (await file.readline()).rstrip())
            await file.seek(0)
            print("characters:", len(await file.read()))

        await aiofiles.os.remove(paths[0])
        print("left after remove:", len(await aiofiles.os.listdir(folder)))
        try:
            await count_lines(paths[0])
        except FileNotFoundError as error:
            print("gone:", error.strerror)


asyncio.run(main())
