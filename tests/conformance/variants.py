"""The stock task and future tests once more, on the target's Task and Future.

CPython writes these tests as base classes with attributes `Task`, `Future` or `cls`, and derives a
class from them for each combination of its C and Python implementations. `add_variants` derives
more of them; their names begin with `Target`. A base that this version of the tests does not have
is left out.
"""

import asyncio
import types
import unittest
from asyncio import futures, tasks


def add_variants(module, target):
    """Put the `Target*` classes for one imported test module into it."""
    add = {
        "test_tasks": _tasks,
        "test_futures": _futures,
        "test_futures2": _futures2,
        "test_eager_task_factory": _eager_task_factory,
    }.get(module.__name__.rpartition(".")[2])
    if add is not None and target.task is not None and target.future is not None:
        add(_Maker(module), target)


def is_variant(test_id):
    return test_id.split(".")[1].startswith("Target")


class _Maker:
    def __init__(self, module):
        self.module = module

    def make(self, name, bases, attributes, *, case=None, decorate=None):
        bases = [getattr(self.module, base, None) for base in bases]
        if None in bases:
            return
        bases.append(case or self.module.test_utils.TestCase)
        made = type(f"Target{name}", tuple(bases), {**attributes, "__module__": self.module.__name__})
        setattr(self.module, made.__name__, decorate(made) if decorate else made)

    def native_only(self, cls, donor, test):
        """A test that the stock suite holds in a C class, for a class without Python methods."""
        if any(isinstance(value, types.FunctionType) for value in vars(cls).values()):
            return {}
        found = vars(getattr(self.module, donor, object)).get(test)
        return {test: found} if found is not None else {}


def _tasks(maker, target):
    Task, Future = target.task, target.future
    public = _registry(asyncio)
    both = {"Task": Task, "Future": Future, **public}
    native = maker.native_only(Task, "CTask_CFuture_Tests", "test_del__log_destroy_pending_segfault")
    maker.make("Task_TargetFuture_Tests", ["BaseTaskTests", "SetMethodsTest"], {**both, **native})
    subclass = getattr(maker.module, "add_subclass_tests", None)
    maker.make("Task_TargetFuture_SubclassTests", ["BaseTaskTests"], both, decorate=subclass)
    for name, stock in (("CFuture", futures._CFuture), ("PyFuture", futures._PyFuture)):
        attributes = {"Task": Task, "Future": stock, **public}
        maker.make(f"Task_{name}_Tests", ["BaseTaskTests"], attributes)
    python = _registry(tasks, "_py_")
    for name, stock, registry in (
        ("CTask", tasks._CTask, public),
        ("PyTask", tasks._PyTask, python or public),
    ):
        attributes = {"Task": stock, "Future": Future, **registry}
        maker.make(f"Future_{name}_Tests", ["BaseTaskTests"], attributes)

    own = _own_functions(target, "_register_task", "_unregister_task", "_enter_task", "_leave_task")
    if own is not None:
        own |= _own_functions(target, "all_tasks") or {}
        maker.make("IntrospectionTests", ["BaseTaskIntrospectionTests"], own)
    current = _own_functions(target, "current_task") or {"current_task": staticmethod(asyncio.current_task)}
    maker.make(
        "CurrentLoopTests",
        ["BaseCurrentLoopTests"],
        {**current, "new_task": lambda self, coro: Task(coro, loop=self.loop)},
    )


def _registry(module, prefix=""):
    """What the tests of 3.14+ find tasks with; earlier ones call asyncio's own functions."""
    return {
        name: staticmethod(getattr(module, prefix + name))
        for name in ("all_tasks", "current_task")
        if hasattr(module, prefix + name)
    }


def _own_functions(target, *names):
    """The target's own functions of these names; None unless it has all of them."""
    if target.task is getattr(tasks, "_CTask", None):  # a reference run
        found = {name: f"_c{name if name.startswith('_') else '_' + name}" for name in names}
    else:
        found = {name: name for name in names}
    functions = {name: getattr(target.task_module, own, None) for name, own in found.items()}
    if None in functions.values():
        return None
    return {name: staticmethod(function) for name, function in functions.items()}


def _futures(maker, target):
    Future = target.future
    Subclass = types.new_class("TargetSubFuture", (Future,))
    native = maker.native_only(Future, "CFutureTests", "test_future_del_segfault")
    maker.make("FutureTests", ["BaseFutureTests"], {"cls": Future, **native})
    maker.make("SubFutureTests", ["BaseFutureTests"], {"cls": Subclass})
    for name, cls in (("", Future), ("Sub", Subclass)):
        maker.make(
            f"{name}FutureDoneCallbackTests",
            ["BaseFutureDoneCallbackTests"],
            {"_new_future": lambda self, cls=cls: cls(loop=self.loop)},
        )
    maker.make(
        "FutureInheritanceTests",
        ["BaseFutureInheritanceTests"],
        {"_get_future_cls": lambda self: Future},
    )


def _futures2(maker, target):
    maker.make(
        "TaskFutureTests",
        ["FutureTests"],
        {"cls": target.task},
        case=unittest.IsolatedAsyncioTestCase,
    )


def _eager_task_factory(maker, target):
    for name, base in (
        ("EagerFactoryTests", "EagerTaskFactoryLoopTests"),
        ("NonEagerCountingTests", "BaseNonEagerTaskFactoryTests"),
        ("EagerCountingTests", "BaseEagerTaskFactoryTests"),
    ):
        maker.make(name, [base], {"Task": target.task})
