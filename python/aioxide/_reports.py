"""Exception handlers: what the loop does with errors that nobody else can take.

Counterpart: the exception handler methods of `asyncio.BaseEventLoop`. The native side calls
`call_exception_handler` wherever asyncio does; both handlers can be overridden or replaced on the
instance, and whatever they raise, the loop lives on.
"""

from __future__ import annotations

import sys
import traceback
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from ._part import LoopPart

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["Reports"]

_TRACEBACK_TITLES = {
    "source_traceback": "Object created at (most recent call last):\n",
    "handle_traceback": "Handle created at (most recent call last):\n",
}


class Reports(LoopPart):
    """The part of the loop that reports errors."""

    def get_exception_handler(
        self,
    ) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None:
        """The handler in use, or None for the default. Same as `loop.get_exception_handler`."""
        return self._exception_handler

    def set_exception_handler(
        self, handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None
    ) -> None:
        """Have `handler(loop, context)` called for errors; None brings the default back.

        Same as `loop.set_exception_handler`. TypeError unless callable or None.
        """
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log the error to the "asyncio" logger. Same as `loop.default_exception_handler`.

        In debug mode the log shows where the object, or else the running handle, was created.
        """
        exception = context.get("exception")
        exc_info: Any = False
        if exception is not None:
            exc_info = (type(exception), exception, exception.__traceback__)
        if "source_traceback" not in context:
            created = getattr(self._current_handle, "_source_traceback", None)
            if created:
                context["handle_traceback"] = created
        lines = [context.get("message") or "Unhandled exception in event loop"]
        for key in sorted(context.keys() - {"message", "exception"}):
            title = _TRACEBACK_TITLES.get(key)
            if title is None:
                shown = repr(context[key])
            else:
                shown = title + "".join(traceback.format_list(context[key])).rstrip()
            lines.append(f"{key}: {shown}")
        logger.error("\n".join(lines), exc_info=exc_info)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an error through the handler in use. Same as `loop.call_exception_handler`.

        From 3.12 on a handler that was set runs in the context of the task, future or handle that
        the report is about. Only SystemExit and KeyboardInterrupt get out of here.
        """
        if self._exception_handler is None:
            try:
                self.default_exception_handler(context)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:
                logger.error("Exception in default exception handler", exc_info=True)
            return
        try:
            _run_in_its_context(context, self._exception_handler, self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._report_handler_error(error, context)

    def _report_handler_error(self, error: BaseException, context: dict[str, Any]) -> None:
        try:
            self.default_exception_handler(
                {
                    "message": "Unhandled error in exception handler",
                    "exception": error,
                    "context": context,
                }
            )
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            logger.error(
                "Exception in default exception handler while handling an unexpected error in custom exception handler",
                exc_info=True,
            )


def _run_in_its_context(
    context: dict[str, Any], handler: Callable[..., object], loop: asyncio.AbstractEventLoop
) -> None:
    own: Any = _context_of(context) if sys.version_info >= (3, 12) else None
    if hasattr(own, "run"):
        own.run(handler, loop, context)
    else:
        handler(loop, context)


def _context_of(context: dict[str, Any]) -> Any:
    """The contextvars context of what the report is about, if it has one."""
    for key in ("task", "future", "handle"):
        subject = context.get(key)
        if subject is not None:
            return subject.get_context() if hasattr(subject, "get_context") else None
    return None
