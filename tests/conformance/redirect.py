"""Let asyncio's loop constructors make the target's loops, inside a worker.

The tests are imported unmodified: they reach the target because they call
`asyncio.new_event_loop()`, `asyncio.SelectorEventLoop()`, the default policy or `asyncio.run()`.
"""

import asyncio
import asyncio.base_events
import asyncio.selector_events
import asyncio.unix_events
import contextlib
import importlib
import logging
import warnings
from unittest import mock


def load(spec):
    """The object that `MODULE:NAME` names; None for None."""
    if spec is None:
        return None
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(module), name)


class Target:
    """What is tested: a loop factory, and optionally a Task and a Future class."""

    def __init__(self, loop, task, future):
        self.is_stock = loop.partition(":")[0] == "asyncio"
        self._factory = load(loop)
        self.task, self.future = load(task), load(future)
        self.task_module = importlib.import_module(task.partition(":")[0]) if task else None
        #: Loops made since the last test ended: 0 says that the test is not about us.
        self.made = 0

    def new_loop(self, *_args, **_kwargs):
        self.made += 1
        return self._factory()

    def loop_class(self):
        loop = self._factory()
        loop.close()
        return type(loop)


def redirect(target):
    """Before the import of a test module; a stock run redirects nothing and only counts."""
    # Policies and watchers are deprecated, and still what the tests use.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"asyncio\..*")
    if target.is_stock:
        base = asyncio.selector_events.BaseSelectorEventLoop
        base.__init__ = _counting(target, base.__init__)
        return
    stand_in = _stand_in(target)
    for module in (asyncio, asyncio.unix_events):
        for name in ("SelectorEventLoop", "EventLoop"):
            if hasattr(module, name):
                setattr(module, name, stand_in)
    names = vars(asyncio.unix_events)
    policy = names.get("_DefaultEventLoopPolicy") or names["DefaultEventLoopPolicy"]
    policy._loop_factory = staticmethod(target.new_loop)
    if not issubclass(target.loop_class(), asyncio.BaseEventLoop):
        # A private part of the stock loop (gone in 3.14) that fixtures attach to whatever loop.
        watcher = names.get("SafeChildWatcher")
        if watcher is not None:
            watcher.attach_loop = lambda self, loop: None
    logging.getLogger("asyncio").addHandler(_LogBridge())
    _loosen_close_loop()


def _counting(target, init):
    def __init__(self, *args, **kwargs):
        target.made += 1
        init(self, *args, **kwargs)

    return __init__


def _stand_in(target):
    """In the place of SelectorEventLoop: a class, as tests use it in isinstance()."""
    loop_class = target.loop_class()

    class Meta(type):
        def __call__(cls, *args, **kwargs):
            return target.new_loop()

        def __instancecheck__(cls, obj):
            return isinstance(obj, loop_class)

        def __subclasscheck__(cls, subclass):
            return issubclass(subclass, loop_class)

    return Meta("RedirectedEventLoop", (), {})


class _LogBridge(logging.Handler):
    """Replay records of the logger `asyncio` on a mocked `asyncio.base_events.logger`.

    The stock tests look at what is logged by mocking that global; the name of the logger is the
    public part of it.
    """

    def emit(self, record):
        logger = asyncio.base_events.logger
        if isinstance(logger, mock.Mock):
            args = (record.args,) if isinstance(record.args, dict) else record.args or ()
            exc_info = {"exc_info": _ExcInfo(record.exc_info)} if record.exc_info else {}
            getattr(logger, record.levelname.lower())(record.msg, *args, **exc_info)


class _ExcInfo(tuple):
    """A record's exc_info, which is also equal to the `exc_info=True` that tests expect."""

    __hash__ = tuple.__hash__

    def __eq__(self, other):
        return other is True or tuple.__eq__(self, other)


def _loosen_close_loop():
    """test_asyncio's close_loop() reads `loop._default_executor`: not every loop has it."""
    from test.test_asyncio import utils

    stock = utils.TestCase.close_loop

    def close_loop(loop):
        if hasattr(loop, "_default_executor"):
            stock(loop)
            return
        if not loop.is_closed() and not loop.is_running():
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    utils.TestCase.close_loop = staticmethod(close_loop)


@contextlib.contextmanager
def base_event_loop_retargeted(target):
    """Within, `BaseEventLoop()` makes the target's loops, for tests of public behaviour only.

    `_run_once()` is then one turn by public means. A target that derives from the stock base keeps
    it, and is only counted.
    """
    loop_class = target.loop_class()
    base = asyncio.base_events.BaseEventLoop
    if issubclass(loop_class, base):
        with mock.patch.object(base, "__init__", _counting(target, base.__init__)):
            yield
        return

    def _run_once(self):
        self.call_soon(self.stop)
        self.run_forever()

    retargeted = type(
        "RetargetedLoop",
        (loop_class,),
        {"__init__": _counting(target, loop_class.__init__), "_run_once": _run_once},
    )
    with contextlib.ExitStack() as stack:
        for module, name in (
            (asyncio, "BaseEventLoop"),
            (asyncio.base_events, "BaseEventLoop"),
            (asyncio.selector_events, "BaseSelectorEventLoop"),
        ):
            stack.enter_context(mock.patch.object(module, name, retargeted))
        yield
