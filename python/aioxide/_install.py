"""`install` and `uninstall`: asyncio's own entry points on native loops.

All of them (`asyncio.new_event_loop`, `asyncio.run`, `asyncio.Runner`, `IsolatedAsyncioTestCase`,
pytest-asyncio) ask the event loop policy when they are given no `loop_factory`, on 3.10 to 3.15. So
the switch is the policy: the current one becomes ours, and asyncio's default one makes native loops
too, since `set_event_loop_policy(None)`, which many test suites call when they tear down, must not
bring back another loop behind the user's back. No function or class is rebound for this: a policy
of the user's own, set later, and an explicit `loop_factory` are honoured, and names imported from
asyncio before `install()` follow as well.
"""

from __future__ import annotations

import asyncio
import asyncio.events
from contextlib import ExitStack
from typing import Any

from ._policy import EventLoopPolicy, new_event_loop, unsupported

__all__ = ["install", "uninstall"]

#: What puts asyncio back; None while not installed.
_undo: ExitStack | None = None


def install() -> None:
    """Let asyncio make native loops wherever no other loop is asked for.

    May be called again at any time, and then makes our policy the current one if it no longer is.
    `loop_factory=` arguments and `asyncio.SelectorEventLoop()` keep their meaning. Call it before
    the program starts its loop; a running loop is not touched. Raises RuntimeError on a system
    without a native loop.
    """
    global _undo
    if reason := unsupported():
        raise RuntimeError(reason)
    if _undo is None:
        _undo = ExitStack()
        _undo.callback(_make_default_policy_native())
    # Not get_event_loop_policy(): it would make one, and warns on 3.14+.
    before: Any = getattr(asyncio.events, "_event_loop_policy", None)
    if not isinstance(before, EventLoopPolicy):
        policy = EventLoopPolicy()
        _set_policy(policy)
        _undo.callback(_restore_policy, policy, before)


def uninstall() -> None:
    """Undo `install()`; nothing happens when it was not called.

    Loops already made stay native. A policy that the program set after `install()` stays.
    """
    global _undo
    if _undo is not None:
        undo, _undo = _undo, None
        undo.close()


def _make_default_policy_native() -> Any:
    """Give asyncio's default policy our factory; the result takes it away again."""
    from asyncio import unix_events  # not on Windows, where install() has refused

    names = vars(unix_events)
    stock: Any = names.get("_DefaultEventLoopPolicy") or names["DefaultEventLoopPolicy"]
    factory = vars(stock)["_loop_factory"]
    stock._loop_factory = staticmethod(new_event_loop)
    return lambda: setattr(stock, "_loop_factory", factory)


def _set_policy(policy: Any) -> None:
    # 3.14+ deprecates the public setter and keeps this one for its own use.
    quiet = getattr(asyncio.events, "_set_event_loop_policy", None)
    (quiet or asyncio.set_event_loop_policy)(policy)


def _restore_policy(ours: Any, before: Any) -> None:
    if getattr(asyncio.events, "_event_loop_policy", None) is ours:
        _set_policy(before)
