"""What the parts of `EventLoop` may use of each other and of the native `Loop`.

`EventLoop` is `_native.Loop` plus parts in Python, one per concern; Python runs here once per
program, loop or connection, all that is hot is native. The native class stands first in the MRO: a
method that moves to Rust wins over the one here without another change.

Patch releases of one minor version differ too. `stdlib_mentions` asks the running interpreter's own
asyncio, once at import, which of two behaviours it has.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Callable, Coroutine, Iterable
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import Context
    from typing import TypeAlias
    from weakref import WeakSet

    from ._executor import ThreadPool
    from ._native import SubprocessTransport

    #: (family, type, proto, canonical name, address), as `socket.getaddrinfo` has it.
    AddressInfo: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
    ProtocolFactory: TypeAlias = Callable[[], asyncio.BaseProtocol]

__all__ = ["LoopPart", "stdlib_mentions"]


def stdlib_mentions(function: object, name: str) -> bool:
    """True when the stdlib's function uses a global, an attribute or a local variable of this name."""
    code = getattr(function, "__code__", None)
    return name in (*getattr(code, "co_names", ()), *getattr(code, "co_varnames", ()))


class LoopPart(asyncio.AbstractEventLoop):
    """Base of the parts of `EventLoop`."""

    if TYPE_CHECKING:
        # Of the native loop.
        _debug: bool
        #: The handle that runs; in debug mode only.
        _current_handle: asyncio.Handle | None
        _thread_id: int | None

        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _close(self) -> None: ...
        def _flush_held(self) -> None: ...
        def _add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> Any: ...
        def _add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> Any: ...
        def _remove_reader(self, fd: int) -> bool: ...
        def _remove_writer(self, fd: int) -> bool: ...

        _wake_pipe: tuple[int, int]
        #: The dict that the native loop looks into when a signal comes.
        _signal_handlers: dict[int, asyncio.Handle]

        def _sendfile(
            self, sock: Any, file: int, offset: int, count: int | None, size: int, always: bool
        ) -> Coroutine[Any, Any, int]: ...
        def _set_aside(self, transport: object) -> None: ...
        def _take_back(self, transport: object) -> None: ...
        def _claim_signals(self) -> None: ...
        def _release_signals(self) -> None: ...

        def _transports_of(self, server: object) -> list[asyncio.Transport]: ...
        def _watched(self) -> list[tuple[int, Any, Any, Any]]: ...
        def _make_socket_transport(
            self,
            sock: socket.socket,
            protocol: asyncio.BaseProtocol,
            waiter: asyncio.Future[None] | None = None,
            *,
            extra: dict[str, Any] | None = None,
            server: object = None,
            context: Context | None = None,  # 3.15+
        ) -> asyncio.Transport: ...

        def _make_read_pipe_transport(
            self,
            pipe: Any,
            protocol: asyncio.BaseProtocol,
            waiter: asyncio.Future[None] | None = None,
            extra: dict[str, Any] | None = None,
        ) -> asyncio.ReadTransport: ...
        def _make_write_pipe_transport(
            self,
            pipe: Any,
            protocol: asyncio.BaseProtocol,
            waiter: asyncio.Future[None] | None = None,
            extra: dict[str, Any] | None = None,
        ) -> asyncio.WriteTransport: ...
        def _connect_sock(
            self,
            exceptions: list[list[OSError]],
            addr_info: AddressInfo,
            local_addr_infos: Iterable[AddressInfo] | None = None,
        ) -> Coroutine[Any, Any, socket.socket]: ...
        async def _create_tls_transport(
            self,
            sock: socket.socket,
            protocol_factory: ProtocolFactory,
            sslcontext: Any,
            server_hostname: str | None,
            server_side: bool,
            handshake_timeout: float | None,
            shutdown_timeout: float | None,
        ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]: ...
        def _create_connection_transport(
            self, sock: socket.socket, protocol_factory: ProtocolFactory
        ) -> Coroutine[Any, Any, tuple[asyncio.Transport, asyncio.BaseProtocol]]: ...

        def _adopt_child(
            self,
            popen: subprocess.Popen[bytes],
            protocol: asyncio.BaseProtocol,
            waiter: asyncio.Future[None],
            extra: dict[str, Any] | None,
            wakes_at: int,
            by_pidfd: bool,
        ) -> SubprocessTransport: ...

        # Of the parts.
        slow_callback_duration: float
        _default_executor: ThreadPoolExecutor | None
        _dns_executor: ThreadPool | None
        _dns_threads: int | None
        _executor_shutdown_called: bool
        _exception_handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None
        _asyncgens: WeakSet[Any]
        _asyncgens_shutdown_called: bool
        _child_watcher: Any
        #: Transports of the loop's children, ended ones too as long as somebody holds them.
        _children: WeakSet[SubprocessTransport]

        def _check_default_executor(self) -> None: ...
        def _check_callback(self, callback: object, method: str) -> None: ...
        async def _ensure_resolved(
            self,
            address: tuple[Any, ...],
            *,
            family: int = ...,
            type: int = ...,
            proto: int = ...,
            flags: int = ...,
            loop: asyncio.AbstractEventLoop,
        ) -> Iterable[AddressInfo]: ...
