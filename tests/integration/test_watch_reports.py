"""What a protocol raises in a callback of a watched descriptor is reported with asyncio's handle, and with its source
traceback exactly if debug mode was on when the watch was set."""

import asyncio
import contextlib
import contextvars
import itertools
import logging
import os
import re
import socket
import sys

import pytest
from datagrams import DatagramRecorder, endpoint, unix_pair
from differential import describe, plain, same
from peers import turns
from pipe_ends import TOO_MUCH, Pipe, connect_reader, connect_writer, ends

pytestmark = pytest.mark.usefixtures("no_leaks")

#: When debug mode is switched: before the watch is set, after it, in the callback itself.
WHEN = ("never", "before", "after", "inside", "off again")

asked_in = contextvars.ContextVar("asked_in", default="nowhere")


def shown(handle, when):
    text = plain(repr(handle))
    # What was cancelled in debug mode still shows its callback; was it before or after the switch?
    return re.sub("<Handle cancelled.*>", "<Handle cancelled>", text) if when == "inside" else text


class Told(logging.Handler):
    """What the default exception handler logs."""

    def __init__(self, callback):
        super().__init__(logging.ERROR)
        self.lines, self.callback = [], callback

    def emit(self, record):
        # Tracebacks are compared as such; of their text only the headlines.
        lines = [plain(line).replace("None()", self.callback) for line in record.getMessage().splitlines()]
        # The line of the handle is a report's, see `shown`.
        self.lines += [line for line in lines if not line.startswith((" ", "handle: "))]


def made_by(source_traceback):
    """The innermost frame of this file: asyncio's limit of ten counts the loop's own."""
    mine = [frame.name for frame in source_traceback or () if frame.filename == __file__]
    return mine[-1:] if source_traceback else None


class Switch:
    """Debug mode, switched at the given moment; what is reported."""

    def __init__(self, when, handler, callback="?"):
        self.when = when
        self.callback = callback
        self.loop = asyncio.get_running_loop()
        self.reports = []
        self.log = Told(callback)
        self.loop.set_exception_handler(self.report if handler == "own" else None)
        self.loop.slow_callback_duration = 1000

    def now(self, moment):
        if self.when == moment or (self.when, moment) == ("off again", "before"):
            self.loop.set_debug(True)
        if (self.when, moment) == ("off again", "after"):
            self.loop.set_debug(False)

    def report(self, loop, context):
        handle = context.get("handle")
        self.reports.append(
            {
                "keys": sorted(context),
                # A handle of asyncio's that is cancelled meanwhile has forgotten what it called.
                "message": plain(context["message"]).replace("None()", self.callback),
                "exception": describe(context["exception"]),
                "handle": shown(handle, self.when),
                "made in": handle._context.get(asked_in),
                "made by": made_by(context.get("source_traceback")),
                "seen from": asked_in.get(),
            }
        )

    @contextlib.contextmanager
    def listening(self):
        logging.getLogger("asyncio").addHandler(self.log)
        try:
            yield
        finally:
            logging.getLogger("asyncio").removeHandler(self.log)
            self.loop.set_debug(False)


async def settle():
    for _ in range(3):
        await turns(4)
        await asyncio.sleep(0.002)


def raising(base, name, switch, set_anew=lambda protocol: None):
    """A protocol that raises once in the method of that name, having set the watch anew if it is asked to."""

    calls = itertools.count()

    def method(self, *args):
        getattr(base, name)(self, *args)
        if next(calls):
            return
        switch.now("inside")
        asked_in.set("the callback")
        set_anew(self)
        raise ZeroDivisionError("from the protocol")

    return type("Raising", (base,), {name: method})


def pause_and_resume(protocol):
    protocol.transport.pause_reading()
    protocol.transport.resume_reading()


def set_anew_by_one_caller(protocol):
    asked_in.set("the caller")
    pause_and_resume(protocol)


async def datagram_reader(switch, set_anew):
    with unix_pair() as (here, there):
        switch.now("before")
        transport, protocol = await endpoint(
            raising(DatagramRecorder, "datagram_received", switch, set_anew), sock=here
        )
        await settle()
        if sys.version_info >= (3, 11):
            set_anew_by_one_caller(protocol)
        switch.now("after")
        asked_in.set("the test")
        for data in (b"one", b"two"):
            there.send(data)
            await settle()
        transport.abort()
        await settle()
        return [data for data, _ in protocol.datagrams]


async def datagram_writer(switch, set_anew):
    with unix_pair() as (here, there):
        transport, protocol = await endpoint(raising(DatagramRecorder, "connection_lost", switch), sock=here)
        await settle()
        switch.now("before")
        asked_in.set("the caller")
        while not transport.get_write_buffer_size():
            transport.sendto(bytes(500))
        switch.now("after")
        asked_in.set("the test")
        transport.close()
        there.setblocking(False)
        while not protocol.lost.done():
            with contextlib.suppress(BlockingIOError):
                there.recv(1000)
            await asyncio.sleep(0)
        await settle()
        return transport.is_closing()


async def pipe_reader(switch, set_anew):
    reader, writer = ends("pipe")
    switch.now("before")
    protocol = await connect_reader(reader, raising(Pipe, "data_received", switch, set_anew))
    await settle()
    set_anew_by_one_caller(protocol)
    switch.now("after")
    asked_in.set("the test")
    for data in (b"one", b"two"):
        os.write(writer, data)
        await settle()
    protocol.transport.close()
    os.close(writer)
    await settle()
    return bytes(protocol.received)


async def pipe_writer(switch, set_anew):
    reader, writer = ends("pipe")
    os.set_blocking(reader, False)
    protocol = await connect_writer(writer, raising(Pipe, "connection_lost", switch))
    await settle()
    switch.now("before")
    asked_in.set("the caller")
    protocol.transport.write(bytes(TOO_MUCH))
    switch.now("after")
    asked_in.set("the test")
    protocol.transport.close()
    while not protocol.lost.done():
        with contextlib.suppress(BlockingIOError):
            os.read(reader, TOO_MUCH)
        await asyncio.sleep(0)
    await settle()
    os.close(reader)
    return protocol.transport.is_closing()


READERS = {
    "datagram reader": (datagram_reader, "DatagramTransport._read_ready()"),
    "pipe reader": (pipe_reader, "ReadPipeTransport._read_ready()"),
}
WRITERS = {
    "datagram writer": (datagram_writer, "DatagramTransport._sendto_ready()"),
    "pipe writer": (pipe_writer, "WritePipeTransport._write_ready()"),
}
ALL = {**READERS, **WRITERS}


def told_of(watch, when, handler="own", set_anew=lambda protocol: None):
    drive, callback = ALL[watch]

    async def scenario():
        switch = Switch(when, handler, callback)
        with switch.listening():
            return await drive(switch, set_anew), switch.reports, switch.log.lines

    return same(scenario)


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("watch", ALL)
def test_a_report_shows_the_handle_as_it_was_made(watch, when):
    _, (report,), _ = told_of(watch, when)
    assert ("source_traceback" in report["keys"]) == (when in ("before", "off again"))
    assert report["message"].endswith(ALL[watch][1])


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("watch", ALL)
def test_the_default_handler_says_where_the_handle_was_made(watch, when):
    _, _, lines = told_of(watch, when, handler="default")
    assert [line for line in lines if line.startswith("Exception in callback")]


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("watch", READERS)
def test_a_watch_that_is_set_anew_in_the_callback_is_not_that_of_its_report(watch, when):
    if watch == "datagram reader" and sys.version_info < (3, 11):
        pytest.skip("pause_reading() of datagrams is of 3.11")
    _, reports, _ = told_of(watch, when, set_anew=pause_and_resume)
    assert [("source_traceback" in report["keys"]) for report in reports] == [when in ("before", "off again")]


@pytest.mark.parametrize("when", WHEN)
def test_a_pipe_whose_reader_hangs_up_reports_as_its_handle(when):
    class Fails(logging.Filter):
        """The one thing there that can raise is the log."""

        def filter(self, record):
            if "closed by peer" not in record.getMessage():
                return True
            logging.getLogger("asyncio").removeFilter(self)
            raise ZeroDivisionError("from the log")

    async def scenario():
        switch = Switch(when, "own")
        logger = logging.getLogger("asyncio")
        level = logger.level
        fails = Fails()
        reader, writer = ends("pipe")
        switch.now("before")
        asked_in.set("the caller")
        with switch.listening():
            protocol = await connect_writer(writer)
            await settle()
            switch.now("after")
            asked_in.set("the test")
            logger.setLevel(logging.INFO)
            logger.addFilter(fails)
            try:
                os.close(reader)
                await protocol.lost
            finally:
                logger.removeFilter(fails)
                logger.setLevel(level)
        return switch.reports

    assert len(same(scenario)) == (when in ("before", "after"))


@pytest.mark.parametrize("when", WHEN)
def test_a_watch_that_cannot_be_set_is_reported_as_the_handle_that_was_to_set_it(when):
    async def scenario():
        switch = Switch(when, "own")

        class Waits(Pipe):
            def connection_made(self, transport):
                switch.now("after")
                super().connection_made(transport)

        switch.now("before")
        with switch.listening():
            protocol = await connect_reader(os.open("/dev/null", os.O_RDONLY), Waits)
            await settle()
            protocol.transport.close()
            await settle()
        # Whose method it is that asyncio calls differs.
        return [{**report, "message": None, "handle": None} for report in switch.reports]

    reports = same(scenario)
    assert [("source_traceback" in report["keys"]) for report in reports] == [when in ("before", "off again")]


@pytest.mark.parametrize("when", WHEN)
def test_a_callback_that_has_ended_its_own_watch_is_reported_in_its_context(when):
    async def scenario():
        switch = Switch(when, "own", "by_itself()")
        here, there = socket.socketpair()

        def by_itself():
            switch.now("inside")
            asked_in.set("the callback")
            switch.loop.remove_reader(here)
            raise ZeroDivisionError("of a callback")

        switch.now("before")
        with here, there, switch.listening():
            switch.loop.add_reader(here, by_itself)
            switch.now("after")
            there.send(b"x")
            await settle()
        # The name of a function has its place in the file appended, in asyncio only: it has lost the function.
        return [{**report, "message": None} for report in switch.reports]

    (report,) = same(scenario)
    assert report["seen from"] == ("the callback" if sys.version_info >= (3, 12) else "nowhere")
