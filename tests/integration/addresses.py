"""Addresses that answer, refuse or stay silent, and resolvers that name them."""

import contextlib
import socket

from peers import PATIENCE_S


@contextlib.contextmanager
def listening(host="127.0.0.1", backlog=64):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=backlog) as listener:
        listener.settimeout(PATIENCE_S)
        yield listener


def refusing(host="127.0.0.1"):
    """An address where nobody listens."""
    with listening(host) as listener:
        return listener.getsockname()


def free_port(host="127.0.0.1"):
    return refusing(host)[1]


@contextlib.contextmanager
def silent():
    """An address that never answers: its queue of connections is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # SYNs are dropped once the queue holds more than the backlog.
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


def info(address):
    """The address as `getaddrinfo` tells it."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address


def resolve_to(loop, addresses, asked=None):
    """Let every name mean these addresses; a dict tells them by name. What is asked is listed in `asked`."""

    async def getaddrinfo(host, port, **options):
        if asked is not None:
            asked.append((host, port, {name: int(value) for name, value in options.items()}))
        # A turn or two, as a thread would have it.
        waiter = loop.create_future()
        loop.call_soon(lambda: loop.call_soon(lambda: waiter.done() or waiter.set_result(None)))
        await waiter
        return [info(address) for address in (addresses[host] if isinstance(addresses, dict) else addresses)]

    loop.getaddrinfo = getaddrinfo
