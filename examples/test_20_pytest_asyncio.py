# requires: pytest_asyncio
"""Tests of async code: pytest-asyncio runs each coroutine test on a loop of its own."""

import asyncio

import pytest
import pytest_asyncio


class Cache:
    """Asks for each key once, also when many ask at the same time."""

    def __init__(self, load):
        self.load = load
        self.tasks = {}

    async def get(self, key):
        if key not in self.tasks:
            self.tasks[key] = asyncio.create_task(self.load(key))
        return await self.tasks[key]


@pytest_asyncio.fixture
async def cache():
    async def load(key):
        await asyncio.sleep(0.01)
        loads.append(key)
        return key.upper()

    loads = []
    cache = Cache(load)
    cache.loads = loads
    yield cache
    assert all(task.done() for task in cache.tasks.values())


@pytest.mark.asyncio
async def test_loads_a_key_once(cache):
    assert await asyncio.gather(*(cache.get("a") for _ in range(10))) == ["A"] * 10
    assert cache.loads == ["a"]


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["x", "y"])
async def test_answers_with_the_loaded_value(cache, key):
    assert await cache.get(key) == key.upper()


@pytest.mark.asyncio
async def test_a_timeout_reaches_the_test(cache):
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)
