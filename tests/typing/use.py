"""What users write, as `mypy --strict` must see it. Checked, never run."""

from __future__ import annotations

import asyncio
import sys

import aioxide

if sys.version_info >= (3, 11):
    from typing import assert_type
else:
    from typing_extensions import assert_type


async def number() -> int:
    return 1


assert_type(aioxide.run(number()), int)
assert_type(aioxide.run(number(), debug=True, loop_factory=aioxide.new_event_loop), int)
assert_type(aioxide.__version__, str)

with aioxide.Runner(debug=False) as runner:
    assert_type(runner.run(number()), int)
    assert_type(runner.get_loop(), asyncio.AbstractEventLoop)

if sys.version_info >= (3, 12):
    assert_type(asyncio.run(number(), loop_factory=aioxide.new_event_loop), int)
if sys.version_info >= (3, 11):
    stock: asyncio.Runner = aioxide.Runner(loop_factory=asyncio.SelectorEventLoop)

loop = aioxide.new_event_loop()
assert_type(loop, aioxide.EventLoop)
abstract: asyncio.AbstractEventLoop = loop
loop.call_soon(print, "text")
handle: asyncio.TimerHandle = loop.call_later(1, print)
assert_type(loop.run_until_complete(number()), int)

future: aioxide.Future[str] = aioxide.Future(loop=loop)
future.set_result("text")
future.set_result(1)  # type: ignore[arg-type]
stock_future: asyncio.Future[str] = future

task: aioxide.Task[int] = aioxide.Task(number(), loop=loop, name="name")
assert_type(task.result(), int)
stock_task: asyncio.Task[int] = task
stock_handle: asyncio.Handle = aioxide.Handle(print, (), loop)
stock_timer: asyncio.TimerHandle = aioxide.TimerHandle(1.0, print, (), loop)

aioxide.install()
aioxide.uninstall()
aioxide.run(number)  # type: ignore[arg-type]
aioxide.run(number(), True)  # type: ignore[misc]
if sys.version_info < (3, 14):
    asyncio.set_event_loop_policy(aioxide.EventLoopPolicy())
