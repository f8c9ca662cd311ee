"""Names to addresses: `getaddrinfo`, `getnameinfo`, and the ways around them.

Counterpart: the resolver methods of `asyncio.BaseEventLoop`, which run in the default executor. Here
they have threads of their own: calls that fill the executor do not keep names from being resolved, nor
names that nobody answers for the executor's calls. `socket.getaddrinfo` is found at call time: programs
replace it.
"""

from __future__ import annotations

import os
import socket
from asyncio.log import logger
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from . import _native
from ._executor import ThreadPool
from ._part import LoopPart

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Sequence

    from ._part import AddressInfo

__all__ = ["Resolving", "interleave"]

#: How many names a loop looks up at a time, if neither the loop nor AIOXIDE_DNS_THREADS says it.
DNS_THREADS = 4
MOST_DNS_THREADS = 256


def _checked_threads(number: Any, source: str) -> int:
    try:
        threads = int(number)
    except ValueError:
        threads = 0
    if not 1 <= threads <= MOST_DNS_THREADS:
        raise ValueError(f"{source} must be a number from 1 to {MOST_DNS_THREADS}, got {number!r}")
    return threads


class Resolving(LoopPart):
    """The part of the loop that resolves names."""

    @property
    def dns_threads(self) -> int:
        """How many names this loop looks up at a time: 1 to 256, by default AIOXIDE_DNS_THREADS or 4.

        Threads that run stay when it is made smaller. ValueError if it is out of range.
        """
        if self._dns_threads is None:
            self._dns_threads = _checked_threads(
                os.environ.get("AIOXIDE_DNS_THREADS") or DNS_THREADS, "AIOXIDE_DNS_THREADS"
            )
        return self._dns_threads

    @dns_threads.setter
    def dns_threads(self, number: int) -> None:
        self._dns_threads = _checked_threads(number, "dns_threads")
        if self._dns_executor is not None:
            self._dns_executor._max_workers = self._dns_threads

    def _get_dns_executor(self) -> ThreadPool:
        if self._dns_executor is None:
            self._dns_executor = ThreadPool(self.dns_threads, "aioxide-dns")
        return self._dns_executor

    async def getaddrinfo(  # type: ignore[override]
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[AddressInfo]:
        """Resolve a name in a thread. Same as `loop.getaddrinfo`; raises `socket.gaierror`.

        A numeric address is answered at once.
        """
        self._check_closed()
        self._check_default_executor()
        self._flush_held()
        if not (flags or self._debug) and socket.getaddrinfo is _stock_getaddrinfo:
            known = _native.literal_answer(host, port, family, type, proto)
            if known is not None:
                return known
        resolve: Any = self._getaddrinfo_debug if self._debug else socket.getaddrinfo
        if _never_blocks(host, port):
            return resolve(host, port, family, type, proto, flags)  # type: ignore[no-any-return]
        return await self.run_in_executor(self._get_dns_executor(), resolve, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """Name an address in a thread. Same as `loop.getnameinfo`; raises `socket.gaierror`."""
        self._check_closed()
        self._check_default_executor()
        return await self.run_in_executor(self._get_dns_executor(), socket.getnameinfo, sockaddr, flags)

    def _getaddrinfo_debug(self, host: Any, port: Any, family: int, type: int, proto: int, flags: int) -> Any:
        """`socket.getaddrinfo`, logged with the time it took. In a thread."""
        asked = [f"{host}:{port!r}"]
        options = {"family": family, "type": type, "proto": proto, "flags": flags}
        asked += [f"{name}={value!r}" for name, value in options.items() if value]
        question = ", ".join(asked)
        logger.debug("Get address info %s", question)
        started = self.time()
        answer = socket.getaddrinfo(host, port, family, type, proto, flags)
        taken = self.time() - started
        text = f"Getting address info {question} took {taken * 1e3:.3f}ms: {answer!r}"
        if taken >= self.slow_callback_duration:
            logger.info(text)
        else:
            logger.debug(text)
        return answer

    async def _ensure_resolved(
        self,
        address: tuple[Any, ...],
        *,
        family: int = 0,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        flags: int = 0,
        loop: asyncio.AbstractEventLoop,
    ) -> Iterable[AddressInfo]:
        """Resolve (host, port, ...), without a thread where the host is a numeric address."""
        host, port = address[:2]
        known = _native.literal_address(host, port, family, type, proto, *address[2:])
        if known is not None:
            return [known]
        return await loop.getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)


#: What the stock `socket.getaddrinfo` is defined in. What a program puts in its place may block.
_STOCK = vars(socket)
_stock_getaddrinfo = socket.getaddrinfo
_inet_pton = socket.inet_pton


def _never_blocks(host: object, port: object) -> bool:
    """Whether `socket.getaddrinfo` answers without asking anybody: numeric host, no name of a service."""
    if type(host) is not str or not (port is None or type(port) is int):
        return False
    if getattr(socket.getaddrinfo, "__globals__", None) is not _STOCK:
        return False
    address, zone, _ = host.partition("%")
    for family in (socket.AF_INET6,) if zone else (socket.AF_INET, socket.AF_INET6):
        try:
            _inet_pton(family, address)
        except (OSError, ValueError):
            continue
        return True
    return False


def interleave(infos: Iterable[AddressInfo], first_family_count: int = 1) -> list[AddressInfo]:
    """Reorder addresses so that families alternate: RFC 8305 section 4.

    `first_family_count` addresses of the first family stand in front.
    """
    by_family: dict[int, list[AddressInfo]] = {}
    for info in infos:
        by_family.setdefault(info[0], []).append(info)
    families: Sequence[list[AddressInfo]] = list(by_family.values())
    ahead = max(first_family_count - 1, 0)
    ordered, families[0][:ahead] = families[0][:ahead], []
    ordered += [info for info in chain(*zip_longest(*families)) if info is not None]
    return ordered
