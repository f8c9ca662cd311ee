"""Steps of the scheduler: callbacks, timers, futures, tasks, and what tasks wait for.

All of it is one channel, `run`: its order is the same on both loops, to the last callback.
"""

import asyncio
import contextvars
import functools
import sys

from .operations import index, one_of, operation, up_to
from .world import describe, plain

number = contextvars.ContextVar("number", default=-1)

#: Text of exceptions, and results, by number.
FAULTS = [ValueError, ZeroDivisionError, KeyError, asyncio.CancelledError, asyncio.TimeoutError]


def fault(k):
    return FAULTS[k % len(FAULTS)](f"fault {k}")


# --- callbacks and timers --------------------------------------------------------------------------


def callback(world, kind, at):
    """A callback that notes its run, and then does something."""
    name = f"k{world.number('callback')}"

    def call():
        world.note("run", name, kind, number.get())
        if kind == "raise":
            raise fault(at)
        if kind == "again":
            for count in range(at % 3):
                world.loop.call_soon(world.note, "run", name, "again", count)
        elif kind == "set" and (future := world.pick(world.futures, at)) is not None and not future.done():
            future.set_result(name)
        elif kind == "cancel" and (handle := world.pick(world.handles, at)) is not None:
            handle.cancel()
        elif kind == "exit":
            raise SystemExit(at)
        elif kind == "stop":
            world.loop.stop()

    return call


kinds = one_of("note", "note", "note", "raise", "again", "again", "set", "cancel", "exit", "stop")


@operation(6, kinds, index)
def call_soon(world, kind, at):
    world.handles.append(world.loop.call_soon(callback(world, kind, at)))


@operation(2, kinds, index)
def call_in_context(world, kind, at):
    context = contextvars.copy_context()
    context.run(number.set, at)
    world.handles.append(world.loop.call_soon(callback(world, kind, at), context=context))


@operation(3, kinds, index)
def call_threadsafe(world, kind, at):
    """From the loop's own thread: the order holds."""
    world.woken = True
    world.handles.append(world.loop.call_soon_threadsafe(callback(world, kind, at)))


@operation(4, kinds, index, up_to(4))
def call_at_past(world, kind, at, when):
    """Due at once. No two are due at the same time: their order would be open."""
    moment = world.base - 10 + when + world.number("timer") * 1e-4
    world.handles.append(world.loop.call_at(moment, callback(world, kind, at)))


@operation(1, kinds, index)
def call_later_never(world, kind, at):
    world.handles.append(world.loop.call_later(1000 + at, callback(world, kind, at)))


@operation(0.4, up_to(3), up_to(2), rests=True)
def call_later_soon(world, count, cancelled):
    """Timers in the near future, made in another order than they are due in; one may be cancelled."""
    now = world.loop.time()
    delays = [0.001, 0.003, 0.002][: count + 1]
    for delay in delays:
        come = world.awaiting()

        def call(come=come, delay=delay):
            world.note("timers", delay)
            come()

        handle = world.loop.call_at(now + delay, call)
        if cancelled and delay == 0.003:
            handle.cancel()
            come()


@operation(3, index)
def handle_cancel(world, at):
    if (handle := world.pick(world.handles, at)) is not None:
        handle.cancel()
        world.note("run", "cancelled", handle.cancelled())


@operation(0.3)
def look_at_loop(world):
    loop = world.loop
    world.note("run", loop.is_running(), loop.is_closed(), loop.get_debug(), plain(repr(loop)).partition(" ")[2])


@operation(0.3, one_of(True, False), feature="debug")
def set_debug(world, on):
    world.loop.set_debug(on)


# --- futures ---------------------------------------------------------------------------------------


@operation(4)
def future(world):
    world.futures.append(world.loop.create_future())


@operation(4, index, one_of("result", "fault", "cancel", "message", "result", "StopIteration"), index)
def future_end(world, at, how, value):
    if (future := world.pick(world.futures, at)) is None:
        return
    if how == "result":
        future.set_result(value)
    elif how == "fault":
        future.set_exception(fault(value))
    elif how == "StopIteration":
        future.set_exception(StopIteration())
    else:
        world.note("run", "cancel", future.cancel(*([f"because {value}"] if how == "message" else [])))


def done_callback(world, kind, at):
    name = f"d{world.number('done')}"

    def call(future):
        world.note("run", name, kind, future.done(), future.cancelled(), number.get())
        if kind == "raise":
            raise fault(at)
        if kind == "add":
            future.add_done_callback(lambda future: world.note("run", name, "added"))
        elif kind == "cancel" and (task := world.pick(world.tasks, at)) is not None:
            world.note("run", name, task.cancel())
        elif kind == "set" and (other := world.pick(world.futures, at)) is not None and not other.done():
            other.set_result(name)

    return call


done_kinds = one_of("note", "note", "raise", "add", "cancel", "set")


@operation(4, index, done_kinds, index, up_to(3))
def future_callback(world, at, kind, value, removed):
    """Add done-callbacks; remove one of them again."""
    future = world.pick(world.futures + world.tasks, at)
    if future is None:
        return
    call = done_callback(world, kind, value)
    future.add_done_callback(call)
    if removed:
        future.add_done_callback(call)
        future.add_done_callback(done_callback(world, "note", 0))
    if removed == 2:
        world.note("run", "removed", future.remove_done_callback(call))


@operation(2, index)
def future_look(world, at):
    future = world.pick(world.futures + world.tasks, at)
    if future is None:
        return
    world.note("run", future.done(), future.cancelled(), type(future).__name__)
    for ask in (future.result, future.exception):
        try:
            value = ask()
            world.note("run", value if isinstance(value, (int, str, type(None))) else describe(value))
        except BaseException as error:
            world.note("run", describe(error))


@operation(2, index)
def future_drop(world, at):
    """Without its references, one whose exception nobody saw is reported."""
    if world.futures:
        del world.futures[at % len(world.futures)]


# --- tasks -----------------------------------------------------------------------------------------

INSTRUCTIONS = {}
#: Name -> how to draw the rest of the instruction, given the depth of programs that may still be nested.
DRAWS = {}


def instruction(*draws, since=(3, 10)):
    def enter(function):
        if sys.version_info >= since:
            name = function.__name__.rstrip("_")
            INSTRUCTIONS[name] = function
            DRAWS[name] = draws
        return function

    return enter


class Inner:
    """Draws a program within a program."""


program_inside = Inner()


def draw_program(chance, depth=3):
    program = []
    for _ in range(chance.choice([0, 1, 1, 2, 2, 3, 4])):
        name = chance.choice(list(DRAWS))
        if program_inside in DRAWS[name] and not depth:
            name = "sleep"
        inside = [draw_program(chance, depth - 1) if draw is program_inside else draw(chance) for draw in DRAWS[name]]
        program.append([name, *inside])
    return program


async def body(world, name, program):
    result = None
    for step in program:
        world.note("run", name, step[0])
        result = await INSTRUCTIONS[step[0]](world, name, *step[1:])
        if result is not None:
            world.note("run", name, step[0], "gave", result)
    return result


def new_name(world, mother=""):
    return f"{mother}t{world.number('task')}"


def make_task(world, program, mother="", how=None):
    name = new_name(world, mother)
    coroutine = body(world, name, program)
    task = (how or world.loop.create_task)(coroutine, name=name)
    if joins(program):
        world.joining.add(task)
    world.tasks.append(task)
    return task


def joins(program):
    return any(step[0] == "join" or any(joins(part) for part in step[1:] if isinstance(part, list)) for step in program)


def cancels_by(world, task):
    cancelling = task.cancelling() if sys.version_info >= (3, 11) else None
    world.note("run", "cancelling", cancelling)


@instruction(up_to(3))
async def sleep(world, name, count):
    for _ in range(count + 1):
        await asyncio.sleep(0)


@instruction(index)
async def wait(world, name, at):
    if (future := world.pick(world.futures, at)) is not None:
        return await future


@instruction(index)
async def join(world, name, at):
    # Not one that joins others in turn: tasks that wait for each other in a ring are cancelled without end.
    task = world.pick([task for task in world.tasks if task not in world.joining], at)
    if task is not None:
        return await task


@instruction(program_inside)
async def child(world, name, program):
    make_task(world, program, name)


@instruction(program_inside, up_to(2))
async def child_awaited(world, name, program, shielded):
    task = make_task(world, program, name)
    return await (asyncio.shield(task) if shielded else task)


@instruction(program_inside, since=(3, 12))
async def eager(world, name, program):
    make_task(world, program, name, functools.partial(asyncio.eager_task_factory, world.loop))


@instruction(up_to(2), index, program_inside, program_inside)
async def gather(world, name, returns, at, one, other):
    parts = [body(world, new_name(world, name), program) for program in (one, other)]
    if (future := world.pick(world.futures, at)) is not None:
        parts.append(future)
    results = await asyncio.gather(*parts, return_exceptions=bool(returns))
    return str([describe(result) if isinstance(result, BaseException) else result for result in results])


@instruction(one_of(None, 0, -1, 1000), program_inside)
async def wait_for(world, name, timeout, program):
    return await asyncio.wait_for(body(world, new_name(world, name), program), timeout)


@instruction(one_of(None, 0, 1000), index)
async def wait_for_future(world, name, timeout, at):
    if (future := world.pick(world.futures, at)) is not None:
        return await asyncio.wait_for(future, timeout)


@instruction(one_of("FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"), program_inside, program_inside)
async def wait_several(world, name, when, one, other):
    tasks = [make_task(world, program, name) for program in (one, other)]
    done, pending = await asyncio.wait(tasks, return_when=getattr(asyncio, when))
    return f"{len(done)} {len(pending)}"


@instruction(index)
async def shield(world, name, at):
    if (future := world.pick(world.futures, at)) is not None:
        return await asyncio.shield(future)


@instruction(index)
async def raise_(world, name, k):
    raise fault(k)


@instruction(up_to(3))
async def cancel_self(world, name, count):
    task = asyncio.current_task()
    for _ in range(count):
        task.cancel()
    cancels_by(world, task)


@instruction(since=(3, 11))
async def uncancel(world, name):
    world.note("run", name, "uncancel", asyncio.current_task().uncancel())


@instruction(index)
async def cancel(world, name, at):
    if (task := world.pick(world.tasks, at)) is not None:
        world.note("run", name, "cancel", task.cancel())


@instruction(index, up_to(2))
async def end(world, name, at, fails):
    future = world.pick(world.futures, at)
    if future is not None and not future.done():
        future.set_exception(fault(at)) if fails else future.set_result(name)


@instruction(program_inside, program_inside)
async def try_(world, name, program, after):
    try:
        return await body(world, name, program)
    except (Exception, asyncio.CancelledError) as error:
        world.note("run", name, "caught", describe(error))
        return await body(world, name, after)


@instruction(program_inside, program_inside)
async def finally_(world, name, program, after):
    try:
        return await body(world, name, program)
    finally:
        await body(world, name, after)


@instruction(program_inside, program_inside, program_inside, since=(3, 11))
async def group(world, name, one, other, main):
    async with asyncio.TaskGroup() as group:
        for program in (one, other):
            make_task(world, program, name, group.create_task)
        return await body(world, name, main)


@instruction(one_of(None, 0, -1, 1000), program_inside, since=(3, 11))
async def timeout(world, name, delay, program):
    async with asyncio.timeout(delay) as scope:
        try:
            return await body(world, name, program)
        finally:
            world.note("run", name, "expired", scope.expired())


@instruction(up_to(2), program_inside)
async def lock(world, name, at, program):
    while len(world.locks) <= at:
        world.locks.append([asyncio.Lock(), asyncio.Semaphore(2)][len(world.locks) % 2])
    async with world.locks[at]:
        return await body(world, name, program)


def event_of(world, at):
    while len(world.events) <= at:
        world.events.append(asyncio.Event())
    return world.events[at]


@instruction(up_to(2))
async def event_wait(world, name, at):
    return await event_of(world, at).wait()


@instruction(up_to(2), up_to(3))
async def event_set(world, name, at, cleared):
    event_of(world, at).set() if cleared < 2 else event_of(world, at).clear()


def queue_of(world, at):
    while len(world.queues) <= at:
        world.queues.append(asyncio.Queue(len(world.queues)))
    return world.queues[at]


@instruction(up_to(2))
async def put(world, name, at):
    await queue_of(world, at).put(name)


@instruction(up_to(2))
async def get(world, name, at):
    return await queue_of(world, at).get()


@instruction(program_inside)
async def generator(world, name, program):
    """An asynchronous generator that nobody exhausts."""

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await body(world, name, program)

    async for one in numbers():
        world.note("run", name, one)
        break


@operation(8, draw_program)
def task(world, program):
    make_task(world, program)


@operation(1, draw_program, since=(3, 12))
def task_eager(world, program):
    make_task(world, program, how=functools.partial(asyncio.eager_task_factory, world.loop))


@operation(4, index, up_to(2))
def task_cancel(world, at, message):
    if (task := world.pick(world.tasks, at)) is not None:
        world.note("run", "cancel", task.cancel(*(["why"] if message else [])))
        cancels_by(world, task)


@operation(0.5, draw_program)
def task_dropped(world, program):
    """Only the loop, or what it waits for, knows it."""
    world.loop.create_task(body(world, new_name(world), program))


@operation(1)
def tasks_look(world):
    tasks = asyncio.all_tasks(world.loop)
    world.note("run", len(tasks), sorted(task.get_name() for task in tasks if not task.get_name().startswith("Task")))
