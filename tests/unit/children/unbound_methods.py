"""Call what `asyncio.Future` and `asyncio.Task` define, unbound, on one kind of aioxide object.

    unbound_methods.py KIND

Started by test_unbound_methods.py: a crash must end this process and no other. Each call is printed before it is
made, so the last line names the culprit. Results and exceptions do not matter; the process has to come to its end.
"""

import _asyncio
import asyncio
import contextvars
import gc
import io
import sys
import types
import warnings

import aioxide

CLASSES = list(dict.fromkeys([asyncio.Future, asyncio.Task, _asyncio.Future, _asyncio.Task]))
KINDS = {}


def kind(function):
    KINDS[function.__name__] = function
    return function


class SubFuture(aioxide.Future):
    pass


class SubTask(aioxide.Task):
    def __del__(self):
        pass


async def forever(loop):
    await loop.create_future()


async def at_once(result=1):
    return result


async def fails():
    raise ValueError("planted")


def turn(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def turned(loop, task):
    turn(loop)
    turn(loop)
    return task


# --- the objects ---------------------------------------------------------------------------------


@kind
def pending_future(loop):
    return loop.create_future()


@kind
def awaited_future(loop):
    future = loop.create_future()

    async def wait():
        await future

    future.waiter = turned(loop, loop.create_task(wait()))
    return future


@kind
def finished_future(loop):
    future = loop.create_future()
    future.set_result(object())
    return future


@kind
def failed_future(loop):
    future = loop.create_future()
    future.set_exception(ValueError("planted"))
    return future


@kind
def cancelled_future(loop):
    future = loop.create_future()
    future.cancel("planted")
    return future


@kind
def uninitialised_future(loop):
    return aioxide.Future.__new__(aioxide.Future)


@kind
def subclassed_future(loop):
    return SubFuture(loop=loop)


@kind
def uninitialised_subclassed_future(loop):
    return SubFuture.__new__(SubFuture)


@kind
def queued_task(loop):
    return loop.create_task(at_once())


@kind
def parked_task(loop):
    return turned(loop, loop.create_task(forever(loop)))


@kind
def named_task(loop):
    return loop.create_task(forever(loop), name="planted")


@kind
def finished_task(loop):
    return turned(loop, loop.create_task(at_once()))


@kind
def failed_task(loop):
    return turned(loop, loop.create_task(fails()))


@kind
def cancelled_task(loop):
    task = turned(loop, loop.create_task(forever(loop)))
    task.cancel("planted")
    return turned(loop, task)


@kind
def cancelling_task(loop):
    task = loop.create_task(forever(loop))
    task.cancel()
    return task


@kind
def uninitialised_task(loop):
    return aioxide.Task.__new__(aioxide.Task)


@kind
def subclassed_task(loop):
    return SubTask(forever(loop), loop=loop)


@kind
def uninitialised_subclassed_task(loop):
    return SubTask.__new__(SubTask)


@kind
def eager_task(loop):
    if sys.version_info < (3, 12):
        return queued_task(loop)

    async def make():
        return [aioxide.Task(at_once(), loop=loop, eager_start=True)]

    return loop.run_until_complete(make())[0]


# --- the calls -----------------------------------------------------------------------------------


def arguments(loop):
    """Calls that the methods of a future or a task might take, each made anew."""
    yield lambda: ((), {})
    yield lambda: ((None,), {})
    yield lambda: ((1,), {})
    yield lambda: (("text",), {})
    yield lambda: ((lambda *a: None,), {})
    yield lambda: ((lambda *a: None,), {"context": contextvars.copy_context()})
    yield lambda: ((ValueError("given"),), {})
    yield lambda: ((KeyError,), {})
    yield lambda: ((ValueError, ValueError("given"), None), {})
    yield lambda: ((), {"msg": "given"})
    yield lambda: ((), {"limit": 1})
    yield lambda: ((), {"limit": None, "file": io.StringIO()})
    yield lambda: ((), {"loop": loop})
    yield lambda: ((at_once(),), {"loop": loop})
    yield lambda: ((at_once(),), {"loop": loop, "name": "given"})
    yield lambda: ((int,), {"loop": loop})


def drive(result, loop):
    """An iterator of a future can be resumed, and a coroutine may await what it gives."""
    if not hasattr(result, "__next__"):
        return

    @types.coroutine
    def wait():
        yield from result

    attempts = [
        lambda: next(result),
        lambda: result.send(None),
        lambda: result.throw(ValueError("given")),
        lambda: loop.create_task(wait()),
        lambda: _asyncio.Task(wait(), loop=loop),
        lambda: result.close(),
    ]
    for attempt in attempts:
        survive(attempt)
    turn(loop)
    turn(loop)


def survive(call):
    try:
        return call()
    except BaseException as error:
        assert not isinstance(error, SystemError) or "internal error" not in str(error), error
        return None


def look(subject):
    """What a debugger would ask of the object afterwards."""
    for question in (
        repr,
        lambda s: s.done(),
        lambda s: s.result(),
        lambda s: s.get_name(),
        lambda s: s._callbacks,
    ):
        survive(lambda question=question: question(subject))


def attempts(owner, name, loop):
    attribute = vars(owner)[name]
    if isinstance(attribute, types.GetSetDescriptorType | types.MemberDescriptorType):
        yield "get", lambda o: attribute.__get__(o, type(o))
        for value in (None, False, True, 1, "text"):
            yield f"set {value!r}", lambda o, value=value: attribute.__set__(o, value)
        yield "delete", lambda o: attribute.__delete__(o)
    elif name == "__new__":
        yield "call", lambda o: attribute.__get__(None, owner)(type(o))
    elif callable(attribute):
        for i, make in enumerate(arguments(loop)):

            def call(o, make=make):
                positional, keywords = make()
                return attribute(o, *positional, **keywords)

            yield f"call {i}", call


def main(chosen):
    sys.unraisablehook = lambda unraisable: None
    loop = aioxide.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    gc.collect()
    gc.freeze()
    calls = 0
    for cls in CLASSES:
        for owner in cls.__mro__:
            for name in vars(owner):
                if name in ("__class__", "__init_subclass__", "__subclasshook__"):
                    continue
                for what, call in attempts(owner, name, loop):
                    print(f"{owner.__module__}.{owner.__qualname__}.{name} {what}", flush=True)
                    subject = KINDS[chosen](loop)
                    result = survive(lambda call=call, subject=subject: call(subject))
                    drive(result, loop)
                    look(subject)
                    survive(lambda: turn(loop))
                    del subject, result, call
                    calls += 1
                gc.collect()
    loop.close()
    print(f"done: {calls} calls")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1])
