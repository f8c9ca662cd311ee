"""Child processes: `subprocess_exec` and `subprocess_shell`.

Counterpart: the methods of `asyncio.BaseEventLoop` of these names, and the child watchers of
`asyncio.unix_events`. `subprocess.Popen` starts the child, with all of its keywords; what comes after
(pipes, signals, the end) is `_native.SubprocessTransport`. A child's end is noticed by its pidfd; where
the system refuses one, a thread waits. Nothing here needs SIGCHLD. A child that outlives its loop is
waited for by a thread too: it is nobody's zombie.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
from asyncio import base_subprocess, unix_events
from asyncio.log import logger
from typing import TYPE_CHECKING, Any
from weakref import ref

from ._part import LoopPart, stdlib_mentions

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from ._native import SubprocessTransport
    from ._part import ProtocolFactory

    #: A child that runs: its Popen, and its transport as long as somebody holds it.
    Child: TypeAlias = tuple["subprocess.Popen[bytes]", Callable[[], SubprocessTransport | None]]

__all__ = ["Processes"]

#: When `wait()` is woken (`io::process::Notices`): patch releases differ.
if not stdlib_mentions(base_subprocess.BaseSubprocessTransport._process_exited, "_exit_waiters"):
    _WAKES_AT = 1  # with connection_lost
elif sys.version_info < (3, 11):
    _WAKES_AT = 0  # with the status, after process_exited and connection_lost are scheduled
else:
    _WAKES_AT = 2  # with the status

#: Up to 3.11 asyncio's default is a thread for each child, whatever the system has; what is logged tells.
_THREAD_IS_DEFAULT = sys.version_info < (3, 12)
_BY_THREAD_TEXT = "Unknown child process pid %d, will report returncode 255"
_BY_PIDFD_TEXT = "child process pid %d exit status already read:  will report returncode 255"
_EXIT_TEXT = "process %s exited with returncode %s"
_CLOSED_TEXT = "Loop %r that handles pid %r is closed"


def _can_use_pidfd() -> bool:
    """Whether the system gives pidfds. asyncio's own answer where it has one: programs and tests replace it."""
    theirs = getattr(unix_events, "can_use_pidfd", None)
    if theirs is not None:
        return bool(theirs())
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


class PidfdWatcher(getattr(unix_events, "_PidfdChildWatcher", object)):  # type: ignore[misc]
    """The name for "by pidfd" on a loop's `_watcher` (3.14+). The work is native."""

    def __init__(self) -> None:
        #: For a child whose pidfd is refused, and for those that outlive the loop.
        self.threads = ThreadWatcher()

    def add_child_handler(self, *_: Any) -> None:
        """Not used: the loop watches its children by itself."""
        raise NotImplementedError("aioxide watches its children natively")


class ThreadWatcher(getattr(unix_events, "_ThreadedChildWatcher", object)):  # type: ignore[misc]
    """A thread for each child, where there are no pidfds.

    The thread leaves the status where it is: the loop's thread takes it and tells of it in one step, so
    that nobody signals a number that is free again.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._threads: dict[int, threading.Thread] = {}

    def __del__(self) -> None:
        """Nothing: the threads are daemons, and end with their children."""

    def add_child_handler(self, *_: Any) -> None:
        """Not used: the loop watches its children by itself."""
        raise NotImplementedError("aioxide watches its children natively")

    def watch(self, loop: Processes, transport: SubprocessTransport) -> None:
        """Have `transport` told when its child has ended."""
        pid = transport.get_pid()
        # Held here: the transport lets it go at its end.
        self._start(pid, self._wait, loop, transport._proc, transport, pid)

    def waits_for(self, pid: int) -> bool:
        """Whether a thread waits for this child."""
        return pid in self._threads

    def reap(self, loop: Processes, child: Child) -> None:
        """Take the child's status when it ends, for `loop`, which is closed."""
        process, _ = child
        self._start(process.pid, self._wait_alone, loop, child)

    def _start(self, pid: int, target: Callable[..., None], *args: Any) -> None:
        name = f"asyncio-waitpid-{next(self._numbers)}"
        self._threads[pid] = thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        try:
            thread.start()
        except BaseException:
            del self._threads[pid]
            raise

    def _wait(
        self, loop: Processes, process: subprocess.Popen[bytes], transport: SubprocessTransport, pid: int
    ) -> None:
        _log_end(loop, pid)
        self._threads.pop(pid, None)
        try:
            loop.call_soon_threadsafe(transport._reap)
        except RuntimeError:
            logger.warning(_CLOSED_TEXT, loop, pid)
            _take_status(process, transport)

    def _wait_alone(self, loop: Processes, child: Child) -> None:
        process, find_transport = child
        if _THREAD_IS_DEFAULT:
            _log_end(loop, process.pid)
            logger.warning(_CLOSED_TEXT, loop, process.pid)
        else:
            _await_end(process.pid)
        self._threads.pop(process.pid, None)
        _take_status(process, find_transport())


def _await_end(pid: int) -> int | None:
    """Block until the child has ended, and leave its status where it is. Its return code, if nobody took it."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _log_end(loop: Processes, pid: int) -> None:
    returncode = _await_end(pid)
    if returncode is not None and loop.get_debug():
        logger.debug(_EXIT_TEXT, pid, returncode)


def _take_status(process: subprocess.Popen[bytes], transport: SubprocessTransport | None) -> None:
    """Leave no zombie of a child that has ended after its loop.

    By its Popen, whom the program may ask meanwhile. The transport is told, so that it signals no
    number that is free again.
    """
    returncode = process.wait()
    if transport is not None and transport.get_returncode() is None:
        try:
            transport._process_exited(returncode)
        except RuntimeError:  # the loop is closed: nobody can be called
            pass


class Processes(LoopPart):
    """The part of the loop that starts children."""

    __slots__ = ()

    @property
    def _watcher(self) -> PidfdWatcher | ThreadWatcher:
        """How the loop learns of a child's end; decided at the first child. asyncio has it from 3.14 on."""
        watcher: PidfdWatcher | ThreadWatcher | None = self._child_watcher
        if watcher is None:
            watcher = self._child_watcher = PidfdWatcher() if _can_use_pidfd() else ThreadWatcher()
        return watcher

    @property
    def _thread_watcher(self) -> ThreadWatcher:
        watcher = self._watcher
        return watcher.threads if isinstance(watcher, PidfdWatcher) else watcher

    def _wait_in_thread(self, transport: SubprocessTransport) -> None:
        """A pidfd was refused, now or always."""
        self._thread_watcher.watch(self, transport)

    def _warn_of_unknown_status(self, pid: int) -> None:
        by_thread = _THREAD_IS_DEFAULT or isinstance(self._watcher, ThreadWatcher)
        logger.warning(_BY_THREAD_TEXT if by_thread else _BY_PIDFD_TEXT, pid)

    def _log_exit(self, pid: int, returncode: int) -> None:
        """In debug mode, for a child whose end was noticed by its pidfd; a thread logs by itself."""
        if _THREAD_IS_DEFAULT:
            logger.debug(_EXIT_TEXT, pid, returncode)

    def _running_children(self) -> list[Child]:
        """Those whose status is not taken. To ask before the native loop closes: it may hold their last reference."""
        return [
            (transport._proc, ref(transport))
            for transport in self._children
            if transport.get_returncode() is None and transport._proc is not None
        ]

    def _leave_children(self, children: list[Child]) -> None:
        """The loop is closed: threads wait for the children that still run.

        They do not hold the transports: who drops the last reference to one kills the child.
        """
        for process, find_transport in children:
            if self._thread_watcher.waits_for(process.pid):
                continue
            if process.poll() is not None:
                _take_status(process, find_transport())
                continue
            if sys.is_finalizing():
                return  # a thread would never begin; init inherits the children
            try:
                self._thread_watcher.reap(self, (process, find_transport))
            except RuntimeError:  # no more threads: subprocess takes the status when it next starts a child
                return

    async def subprocess_shell(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        cmd: bytes | str,
        *,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = True,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[asyncio.SubprocessTransport, asyncio.BaseProtocol]:
        """Start a shell command.

        Same as `loop.subprocess_shell`: the other keywords are `subprocess.Popen`'s. ValueError for
        what is not about bytes, OSError and `subprocess.SubprocessError` if it cannot be started.
        Cancelling kills the child and waits for its end.
        """
        if not isinstance(cmd, (bytes, str)):
            raise ValueError("cmd must be a string")
        _check_binary(universal_newlines, shell, True, bufsize, text, encoding, errors)
        what = f"run shell command {cmd!r}" if self._debug else ""
        return await self._start(protocol_factory, what, cmd, True, stdin, stdout, stderr, kwargs)

    async def subprocess_exec(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        program: Any,
        *args: Any,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = False,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[asyncio.SubprocessTransport, asyncio.BaseProtocol]:
        """Start a program with arguments.

        Same as `loop.subprocess_exec`: the other keywords are `subprocess.Popen`'s. ValueError for
        what is not about bytes, OSError and `subprocess.SubprocessError` if it cannot be started.
        Cancelling kills the child and waits for its end.
        """
        _check_binary(universal_newlines, shell, False, bufsize, text, encoding, errors)
        # Without the arguments: they may be secret, and long.
        what = f"execute program {program!r}" if self._debug else ""
        return await self._start(protocol_factory, what, (program, *args), False, stdin, stdout, stderr, kwargs)

    async def _start(
        self,
        protocol_factory: ProtocolFactory,
        what: str,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        kwargs: dict[str, Any],
    ) -> tuple[asyncio.SubprocessTransport, asyncio.BaseProtocol]:
        protocol = protocol_factory()
        is_debug = self._debug
        if is_debug:
            _log_pipes(what, stdin, stdout, stderr)
        transport = await self._make_subprocess_transport(protocol, args, shell, stdin, stdout, stderr, 0, **kwargs)
        if self._debug and is_debug:
            logger.info("%s: %r", what, transport)
        return transport, protocol

    async def _make_subprocess_transport(
        self,
        protocol: asyncio.BaseProtocol,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> asyncio.SubprocessTransport:
        # All that may fail without a child comes before there is one.
        self._check_closed()
        self._flush_held()  # the child may look at what was written before
        waiter = self.create_future()
        by_pidfd = isinstance(self._watcher, PidfdWatcher)
        process = subprocess.Popen(
            args,
            shell=shell,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=False,
            bufsize=bufsize,
            **kwargs,
        )
        transport = self._adopt_child(process, protocol, waiter, extra, _WAKES_AT, by_pidfd)
        self._children.add(transport)
        if self._debug:
            program = args if isinstance(args, (bytes, str)) else args[0]
            logger.debug("process %r created: pid %s", program, process.pid)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport


def _check_binary(
    universal_newlines: object,
    shell: object,
    wants_shell: bool,
    bufsize: object,
    text: object,
    encoding: object,
    errors: object,
) -> None:
    """ValueError for the keywords that Popen has and a transport of bytes cannot have."""
    if universal_newlines:
        raise ValueError("universal_newlines must be False")
    if bool(shell) is not wants_shell:
        raise ValueError(f"shell must be {wants_shell}")
    if bufsize != 0:
        raise ValueError("bufsize must be 0")
    if text:
        raise ValueError("text must be False")
    if encoding is not None:
        raise ValueError("encoding must be None")
    if errors is not None:
        raise ValueError("errors must be None")


def _log_pipes(what: str, stdin: Any, stdout: Any, stderr: Any) -> None:
    """Debug mode's line: what is started, and where its pipes lead."""
    names = {subprocess.PIPE: "<pipe>", subprocess.STDOUT: "<stdout>"}

    def shown(pipe: Any) -> str:
        return names[pipe] if isinstance(pipe, int) and pipe in names else repr(pipe)

    info = [what]
    if stdin is not None:
        info.append(f"stdin={shown(stdin)}")
    if stdout is not None and stderr == subprocess.STDOUT:
        info.append(f"stdout=stderr={shown(stdout)}")
    else:
        info += [f"{name}={shown(pipe)}" for name, pipe in (("stdout", stdout), ("stderr", stderr)) if pipe is not None]
    logger.debug(" ".join(info))
