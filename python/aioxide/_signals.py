"""Signal handlers of a loop: `add_signal_handler` and `remove_signal_handler`.

Counterpart: `asyncio.unix_events`. What runs when a signal comes is native (`io/signals.rs`), and so is the
story of who has the wake-up descriptor (`io/wakeup_fd.rs`).
"""

from __future__ import annotations

import errno
import signal
import sys
import warnings
from asyncio import coroutines
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from . import _native
from ._part import LoopPart

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Signals"]

# 3.14 deprecates the public name, which warns.
_is_coroutine_function = getattr(coroutines, "_iscoroutinefunction", None) or coroutines.iscoroutinefunction


class Signals(LoopPart):
    """The part of the loop that installs and removes signal handlers."""

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Call `callback(*args)` in the loop whenever the signal comes. Main thread only.

        Same as `loop.add_signal_handler`: it replaces the signal's handler, this loop's or not. ValueError for a number
        that is no signal; RuntimeError for one that cannot be caught, and in another thread.

        While a loop has handlers it has `signal.set_wakeup_fd`; the program's own comes back with the last one's end.
        """
        if coroutines.iscoroutine(callback) or _is_coroutine_function(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        try:
            self._claim_signals()
        except (ValueError, OSError) as error:
            raise RuntimeError(str(error))  # noqa: B904  as asyncio: the error is its context
        self._signal_handlers[sig] = _native.Handle(callback, args, self, None)
        try:
            # It does next to nothing, but with it the interpreter tells the loop.
            signal.signal(sig, _native._sighandler_noop)
            signal.siginterrupt(sig, False)
        except OSError as error:
            del self._signal_handlers[sig]
            self._release_unless_needed()
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught")  # noqa: B904  as above
            raise

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove a signal's handler; whether there was one.

        Same as `loop.remove_signal_handler`: the signal does what it does by default afterwards.
        """
        self._check_signal(sig)
        try:
            del self._signal_handlers[sig]
        except KeyError:
            return False
        try:
            signal.signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught")  # noqa: B904  as above
            raise
        self._release_unless_needed()
        return True

    def _release_unless_needed(self) -> None:
        if self._signal_handlers:
            return
        try:
            self._release_signals()
        except (ValueError, OSError) as error:
            logger.info("set_wakeup_fd(-1) failed: %s", error)

    def _remove_signal_handlers(self) -> None:
        """Of `close()`."""
        if not sys.is_finalizing():
            for sig in list(self._signal_handlers):
                self.remove_signal_handler(sig)
        elif self._signal_handlers:
            warnings.warn(
                f"Closing the loop {self!r} on interpreter shutdown stage, skipping signal handlers removal",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            self._signal_handlers.clear()

    def _check_signal(self, sig: object) -> None:
        if not isinstance(sig, int):
            raise TypeError(f"sig must be an int, not {sig!r}")
        if sig not in signal.valid_signals():
            raise ValueError(f"invalid signal number {sig}")
