"""The loop's methods by name: one class to who looks, whatever it is made of."""

import inspect
import pickle

import aioxide
import pytest


def public_methods():
    for name in dir(aioxide.EventLoop):
        method = inspect.getattr_static(aioxide.EventLoop, name)
        if not name.startswith("_") and inspect.isfunction(method) and "asyncio" not in method.__module__.split("."):
            yield name, method


def test_the_loop_is_one_class_to_who_looks():
    """In reprs, error messages and pickles, as asyncio's `BaseEventLoop`."""
    found = dict(public_methods())
    assert {"subprocess_exec", "create_unix_server", "create_connection", "close"} < set(found)
    for name, method in found.items():
        assert (method.__qualname__, method.__module__) == (f"EventLoop.{name}", "aioxide")
        assert pickle.loads(pickle.dumps(method)) is method
        assert f"def {name}(" in inspect.getsource(method)


def test_error_messages_and_reprs_name_no_part_of_the_loop():
    loop = aioxide.new_event_loop()
    try:
        with pytest.raises(TypeError, match=r"^EventLoop\.create_unix_server\(\) got an unexpected keyword argument"):
            loop.create_unix_server(None, nope=1)
        assert repr(loop.subprocess_exec).startswith("<bound method EventLoop.subprocess_exec of <EventLoop ")
        coroutine = loop.subprocess_exec(None, "true")
        assert coroutine.__qualname__ == "EventLoop.subprocess_exec"
        coroutine.close()
    finally:
        loop.close()
