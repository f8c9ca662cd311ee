"""What counts as a descriptor for `add_reader` and its like, and which files epoll takes: as asyncio has it."""

import asyncio
import os

import pytest
from differential import outcome, same


class File:
    """A file object in the eyes of `selectors`."""

    def __init__(self, number):
        self.number = number

    def fileno(self):
        return self.number

    def __repr__(self):
        return "<a file>"


@pytest.mark.parametrize("method", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
@pytest.mark.parametrize(
    "file",
    [
        2**31 - 1,
        2**31,
        2**64,
        -(2**31),
        -(2**70),
        10_000,
        type("Number", (int,), {})(10_000),
        b"1",
        [],
        File(10_000),
        File(2**31),
        File(2**70),
        File(10_000.0),
        File("10000"),
        type("Index", (), {"__index__": lambda self: 10_000})(),
        type("Index", (), {"fileno": lambda self: type("I", (), {"__index__": lambda self: 10_000})()})(),
    ],
    ids=lambda file: f"File({file.number})" if isinstance(file, File) else f"{type(file).__name__}-{file}"[:30],
)
def test_numbers_that_are_none_are_refused_as_asyncio_does(method, file):
    async def scenario():
        loop = asyncio.get_running_loop()
        arguments = (print,) if method.startswith("add") else ()

        async def call():
            return getattr(loop, method)(file, *arguments)

        kind, result = await outcome(call())
        # The text of an OverflowError is of the C function that met it.
        return kind, result[0] if kind == "raises" and result[0] == "OverflowError" else result

    same(scenario)


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
def test_files_that_epoll_does_not_take(method, tmp_path):
    (tmp_path / "file").write_bytes(b"x")

    async def scenario():
        loop = asyncio.get_running_loop()
        seen = []
        remove = getattr(loop, method.replace("add", "remove"))
        for path, flags in [(tmp_path / "file", os.O_RDWR), (tmp_path, os.O_RDONLY), ("/dev/null", os.O_RDWR)]:
            number = os.open(path, flags)

            async def call(number=number):
                return getattr(loop, method)(number, print)

            kind, result = await outcome(call())
            seen.append((kind, result, remove(number), remove(number)))
            os.close(number)
        return seen

    same(scenario)
