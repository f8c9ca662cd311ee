"""What the extension module `aioxide._native` (crates/python) holds, with asyncio's signatures.

Future, Task, Handle and TimerHandle derive from asyncio's classes: the first two in fact, handles by
`__class__`. `Loop` has no Python base in fact: `aioxide.EventLoop` derives from it and from
`asyncio.AbstractEventLoop`. It is given asyncio's concrete base here for its signatures, as typing it as
the abstract one would make it a class without instances.
"""

import asyncio
import sys
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, NoReturn, TypeVar, final

from typing_extensions import disjoint_base

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

__version__: str

@disjoint_base
class Loop(asyncio.BaseEventLoop):
    def __init__(self) -> None: ...
    def set_write_gathering(self, enabled: bool) -> None: ...

@disjoint_base
class Future(asyncio.Future[_T]): ...

@disjoint_base
class Task(asyncio.Task[_T_co]):
    if sys.version_info >= (3, 12):
        def __init__(
            self,
            coro: Generator[Any, None, _T_co] | Coroutine[Any, Any, _T_co],
            *,
            loop: asyncio.AbstractEventLoop | None = None,
            name: str | None = None,
            context: Context | None = None,
            eager_start: bool = False,
        ) -> None: ...

    def get_context(self) -> Context: ...

@disjoint_base
class Handle(asyncio.Handle):
    def get_context(self) -> Context: ...

class TimerHandle(asyncio.TimerHandle):
    def get_context(self) -> Context: ...

@final
class SocketTransport(asyncio.Transport): ...

@final
class SubprocessTransport(asyncio.SubprocessTransport):
    def _wait(self) -> Coroutine[Any, Any, int]: ...
    def _reap(self) -> None: ...

@final
class ReadPipeTransport(asyncio.ReadTransport): ...

@final
class WritePipeTransport(asyncio.Transport): ...

@final
class DatagramTransport(asyncio.DatagramTransport): ...

class WorkQueue:
    def __new__(cls, context: object = None, /) -> WorkQueue: ...
    def put(self, item: object, /) -> None: ...
    def get_nowait(self) -> Any: ...
    def qsize(self) -> int: ...
    def empty(self) -> bool: ...
    def work(self) -> None: ...
    def announce(self, limit: int) -> bool: ...
    def not_started(self) -> None: ...

def literal_address(
    host: str | bytes | None,
    port: str | bytes | int | None,
    family: int,
    type: int,
    proto: int,
    flowinfo: int = 0,
    scope_id: int = 0,
) -> tuple[int, int, int, str, tuple[Any, ...]] | None: ...
def literal_answer(
    host: str | bytes | None, port: str | bytes | int | None, family: int, type: int, proto: int
) -> list[tuple[int, int, int, str, tuple[Any, ...]]] | None: ...
def _sighandler_noop(signum: int, frame: object) -> None: ...
def _pending_tasks() -> list[asyncio.Task[Any]]: ...
def _panic() -> NoReturn: ...
