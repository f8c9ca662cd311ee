"""The REPL of `python -m aioxide`: statements may await, on a native loop.

Counterpart: `python -m asyncio`. The loop runs in the main thread, where signals arrive, and the
console in a thread of its own, since reading a line blocks. Each statement becomes one callback of
the loop; the console waits for what comes of it. Between statements the loop goes on, so tasks
started at the prompt live.
"""

from __future__ import annotations

import ast
import asyncio
import code
import contextvars
import inspect
import os
import sys
import threading
import tokenize
import warnings
from concurrent.futures import Future
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ._runners import Runner

try:
    import readline
    import rlcompleter
except ImportError:  # an interpreter built without it: no history, no completion
    readline = None  # type: ignore[assignment]

__all__ = ["interact"]


def interact(module: ModuleType) -> Any:
    """Read and run statements in `module` until the end of input or `exit()`.

    Runs in the main thread. Returns what `exit()` was given, None at the end of input.
    """
    module.__dict__["asyncio"] = asyncio
    _set_up_line_editing(module)
    with Runner() as runner:
        loop = runner.get_loop()
        console = _Console(module.__dict__, loop)
        thread = threading.Thread(target=console.converse, name="aioxide REPL", daemon=True)
        thread.start()
        while True:
            try:
                loop.run_forever()
                break
            except KeyboardInterrupt:
                console.interrupt()
            except SystemExit:
                if not console.has_ended:
                    raise  # from a task in the background
    return console.exit_code


class _Console(code.InteractiveConsole):
    """The console's thread, and what it has running on the loop."""

    def __init__(self, namespace: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(namespace, filename="<stdin>")
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self.exit_code: Any = None
        self._loop = loop
        # One for all statements: what one sets the next one sees.
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[Any] | None = None

    # In the console's thread.

    def converse(self) -> None:
        try:
            if not sys.flags.quiet:
                self.write(
                    f"aioxide REPL, Python {sys.version} on {sys.platform}\n"
                    'Use "await" directly instead of "asyncio.run()".\n'
                    'Type "help", "copyright", "credits" or "license" for more information.\n'
                )
            self._run_startup_file()
            self.write(f"{getattr(sys, 'ps1', '>>> ')}import asyncio\n")
            self.interact(banner="", exitmsg="")
        except SystemExit as leaving:
            self.exit_code = leaving.code
        finally:
            # A statement that is cut short here leaves its coroutine behind.
            warnings.filterwarnings("ignore", r"coroutine .* was never awaited$", category=RuntimeWarning)
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _run_startup_file(self) -> None:
        path = os.environ.get("PYTHONSTARTUP")
        if not path or sys.flags.ignore_environment:
            return
        try:
            with tokenize.open(path) as file:
                exec(compile(file.read(), path, "exec", dont_inherit=True), self.locals)
        except SystemExit:
            raise
        except OSError as error:
            self.write(f"Could not open PYTHONSTARTUP\n{type(error).__name__}: {error}\n")
        except BaseException:
            self.showtraceback()

    def runcode(self, code: CodeType) -> None:
        """Run one compiled statement on the loop and wait for it."""
        outcome: Future[Any] = Future()
        self._loop.call_soon_threadsafe(self._start, code, outcome, context=self._context)
        try:
            outcome.result()
        except SystemExit:
            raise
        except (KeyboardInterrupt, _Interrupted):
            self.write("\nKeyboardInterrupt\n")
        except BaseException:
            self.showtraceback()

    # In the loop's thread.

    def _start(self, code: CodeType, outcome: Future[Any]) -> None:
        try:
            result = FunctionType(code, self.locals)()
            if not inspect.iscoroutine(result):
                outcome.set_result(result)
            elif sys.version_info >= (3, 11):
                self._watch(self._loop.create_task(result, context=self._context), outcome)
            else:
                self._watch(self._loop.create_task(result), outcome)
        except BaseException as error:
            # SystemExit and KeyboardInterrupt too: the console decides, the loop goes on.
            outcome.set_exception(error)

    def _watch(self, task: asyncio.Task[Any], outcome: Future[Any]) -> None:
        self._task = task

        def done(task: asyncio.Task[Any]) -> None:
            if self._task is not task:  # interrupt() has taken it
                if task.cancelled():
                    outcome.set_exception(_Interrupted())
                    return
            else:
                self._task = None
            if task.cancelled():
                outcome.set_exception(asyncio.CancelledError())
            elif error := task.exception():
                outcome.set_exception(error)
            else:
                outcome.set_result(task.result())

        task.add_done_callback(done)

    @property
    def has_ended(self) -> bool:
        """True when the statement's task is done and the console is yet to hear of it."""
        return self._task is not None and self._task.done()

    def interrupt(self) -> None:
        """Ctrl-C while the loop waited: cancel the statement that awaits, if there is one."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()


class _Interrupted(Exception):
    """The user cancelled a statement."""


def _set_up_line_editing(module: ModuleType) -> None:
    """History and completion as the interpreter's own prompt has them."""
    if not sys.stdin.isatty():
        return
    # Set by `site`; reads the history and writes it back at exit.
    hook = getattr(sys, "__interactivehook__", None)
    if hook is not None:
        hook()
    if readline is not None:
        readline.set_completer(rlcompleter.Completer(module.__dict__).complete)
