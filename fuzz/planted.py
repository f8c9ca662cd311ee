"""Loops with one bug each, to see that the fuzzer finds it: asyncio's own, but for the bug.

`python -m fuzz --loop fuzz.planted:swaps_two_callbacks` must fail. Each bug shows only now and then, counted per loop or
told from data, so that a sequence that fails does so again.
"""

import asyncio
import os
import signal
import ssl
import time


class Counting(asyncio.SelectorEventLoop):
    """Says of the n-th call of something that it is the n-th."""

    #: Whose steps find the bug.
    feature = "base"

    def __init__(self):
        super().__init__()
        self._counts = {}

    def nth(self, what):
        self._counts[what] = self._counts.get(what, 0) + 1
        return self._counts[what]


class loses_a_wake_up(Counting):
    """All from other threads but the first: what they ask is queued when the loop sleeps, and it sleeps on."""

    def call_soon_threadsafe(self, callback, *args, context=None):
        if asyncio._get_running_loop() is None and self.nth("threadsafe") > 1:
            time.sleep(0.01)
            return self.call_soon(callback, *args, context=context)
        return super().call_soon_threadsafe(callback, *args, context=context)


class drops_a_call_of_a_thread(Counting):
    """Each thirtieth."""

    def call_soon_threadsafe(self, callback, *args, context=None):
        if asyncio._get_running_loop() is None and self.nth("threadsafe") % 30 == 0:
            return asyncio.Handle(callback, args, self)
        return super().call_soon_threadsafe(callback, *args, context=context)


class swaps_two_callbacks(Counting):
    """Once: the twentieth comes before the nineteenth."""

    def call_soon(self, callback, *args, context=None):
        handle = super().call_soon(callback, *args, context=context)
        if self.nth("soon") == 20 and len(self._ready) > 1:
            self._ready.insert(len(self._ready) - 2, self._ready.pop())
        return handle


class runs_a_cancelled_timer(Counting):
    """The third timer that is cancelled."""

    def call_at(self, when, callback, *args, context=None):
        timer = super().call_at(when, callback, *args, context=context)
        if self.nth("timer") == 3:
            self.call_soon(callback, *args, context=context)
        return timer


class forgets_the_context(Counting):
    """A context given to every fourth call is not the one that it runs in."""

    def call_soon(self, callback, *args, context=None):
        if context is not None and self.nth("context") % 4 == 0:
            context = None
        return super().call_soon(callback, *args, context=context)


class swallows_an_exception(Counting):
    """Each fifth report."""

    def call_exception_handler(self, context):
        if self.nth("report") % 5:
            super().call_exception_handler(context)


class leaks_a_descriptor(Counting):
    """With each third transport."""

    def _make_socket_transport(self, sock, protocol, waiter=None, **options):
        if self.nth("transport") % 3 == 0:
            os.dup(sock.fileno())
        return super()._make_socket_transport(sock, protocol, waiter, **options)

    def _make_ssl_transport(self, sock, *args, **options):
        if self.nth("transport") % 3 == 0:
            os.dup(sock.fileno())
        return super()._make_ssl_transport(sock, *args, **options)


class FaultySocketTransport(asyncio.selector_events._SelectorSocketTransport):
    """A transport with bugs, switched on by the loop's class."""

    def _read_ready__data_received(self):
        protocol, bug = self._protocol, type(self._loop).__name__
        if bug == "drops_a_byte":
            self._protocol = Between(protocol, lambda data: data[:500] + data[501:])
        elif bug == "doubles_a_byte":
            self._protocol = Between(protocol, lambda data: data + data[-1:] if len(data) == 5000 else data)
        try:
            super()._read_ready__data_received()
        finally:
            if isinstance(self._protocol, Between):
                self._protocol = protocol

    def _call_connection_lost(self, error):
        protocol, bug = self._protocol, type(self._loop).__name__
        super()._call_connection_lost(error)
        if bug == "tells_the_end_twice" and error is not None:
            protocol.connection_lost(error)

    def pause_reading(self):
        if type(self._loop).__name__ != "reads_while_paused" or not self._buffer:
            super().pause_reading()

    def write(self, data):
        if type(self._loop).__name__ == "loses_what_follows_the_backlog" and self._buffer and len(data) < 100:
            return
        super().write(data)


class Between:
    """A protocol that changes what comes in."""

    def __init__(self, protocol, change):
        self._protocol, self._change = protocol, change

    def data_received(self, data):
        self._protocol.data_received(self._change(data))

    def __getattr__(self, name):
        return getattr(self._protocol, name)


class WithFaultyTransports(Counting):
    def _make_socket_transport(self, sock, protocol, waiter=None, *, extra=None, server=None, **options):
        return FaultySocketTransport(self, sock, protocol, waiter, extra, server, **options)


class drops_a_byte(WithFaultyTransports):
    """Of each piece of more than 500."""


class doubles_a_byte(WithFaultyTransports):
    """Of each piece of 5000."""


class tells_the_end_twice(WithFaultyTransports):
    """Where it is an error."""


class reads_while_paused(WithFaultyTransports):
    """If something waits to be sent."""


class loses_what_follows_the_backlog(WithFaultyTransports):
    """If it is little."""


class loses_a_removal(Counting):
    """A reader that is removed runs once more, if a writer is watched as well."""

    def remove_reader(self, fd):
        key = self._selector.get_map().get(fd)
        if key is not None and key.data[0] is not None and key.data[1] is not None:
            self.call_soon(key.data[0]._callback)
        return super().remove_reader(fd)


class dies(Counting):
    """Of a signal, when a reader is added for the fourth time, or a connection with TLS is made."""

    def _make_ssl_transport(self, *args, **options):
        if self.nth("secure") == 4:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super()._make_ssl_transport(*args, **options)

    def add_reader(self, *args):
        if self.nth("reader") == 4:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().add_reader(*args)


class hangs(Counting):
    """For good, when a writer is added for the third time."""

    def add_writer(self, *args):
        if self.nth("writer") == 3:
            time.sleep(1000)
        return super().add_writer(*args)


# --- TLS -------------------------------------------------------------------------------------------


class Cutting:
    """An SSLObject that loses a byte between the records of one receive."""

    def __init__(self, inner):
        self._inner, self._records = inner, 0

    def read(self, *args):
        data = self._inner.read(*args)
        self._records += 1
        return data[1:] if self._records > 1 and len(data) > 1 else data

    def __getattr__(self, name):
        return getattr(self._inner, name)


class FaultyTls(asyncio.sslproto.SSLProtocol):
    """TLS with bugs, switched on by the loop's class."""

    def _has(self, bug):
        return type(self._loop).__name__ == bug

    def _do_read__copied(self):
        inner = self._sslobj
        if self._has("loses_a_byte_between_records"):
            self._sslobj = Cutting(inner)
        try:
            super()._do_read__copied()
        finally:
            self._sslobj = inner

    def _call_eof_received(self):
        protocol, before = self._app_protocol, self._app_state
        super()._call_eof_received()
        if self._has("tells_the_end_of_tls_twice") and before is not self._app_state:
            protocol.eof_received()

    def _start_shutdown(self):
        if self._has("closes_without_flush") and self._ssl_writing_paused:
            self._outgoing.read()
        super()._start_shutdown()

    def _fatal_error(self, error, *message):
        if self._has("swallows_an_error_of_tls") and isinstance(error, ssl.SSLError):
            self._transport._force_close(None)
        else:
            super()._fatal_error(error, *message)

    def _pause_reading(self):
        if not self._has("reads_tls_while_paused") or not self._app_protocol_is_buffer:
            super()._pause_reading()

    def _check_shutdown_timeout(self):
        if not self._has("forgets_the_shutdown_timer"):
            super()._check_shutdown_timeout()


class WithFaultyTls(Counting):
    feature = "tls"

    def _make_ssl_transport(self, *args, **options):
        module = asyncio.sslproto
        stock, module.SSLProtocol = module.SSLProtocol, FaultyTls
        try:
            return super()._make_ssl_transport(*args, **options)
        finally:
            module.SSLProtocol = stock


class loses_a_byte_between_records(WithFaultyTls):
    """Of one receive."""


class tells_the_end_of_tls_twice(WithFaultyTls):
    """Where the peer has sent close_notify."""


class closes_without_flush(WithFaultyTls):
    """What waits for the transport below is lost."""


class swallows_an_error_of_tls(WithFaultyTls):
    """The program sees a clean end."""


class reads_tls_while_paused(WithFaultyTls):
    """Into a buffer of the protocol's."""


class forgets_the_shutdown_timer(WithFaultyTls):
    """A peer that does not answer holds the connection for good."""
