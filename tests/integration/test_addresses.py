"""Which address `create_connection` tries when, from where, and what it raises when none works."""

import asyncio
import gc
import socket
import sys
import weakref

import pytest
from addresses import free_port, info, listening, resolve_to, silent
from differential import outcome, plain, same
from peers import Recorder, close, turns

pytestmark = pytest.mark.usefixtures("no_leaks")

# --- IPv6 ----------------------------------------------------------------------------------------


def test_a_scope_id_reaches_the_socket():
    """Both in the name of the host and in an address of four."""

    async def scenario():
        loop = asyncio.get_running_loop()
        tried = []
        sock_connect = loop.sock_connect

        async def note(sock, address):
            tried.append(plain(repr(address)))
            await sock_connect(sock, address)

        loop.sock_connect = note
        seen = []
        with listening("::1") as listener:
            port = listener.getsockname()[1]
            for host in ("::1", "::1%1"):
                transport, protocol = await loop.create_connection(Recorder, host, port)
                peer, _ = listener.accept()
                seen.append(plain(repr(transport.get_extra_info("peername"))))
                await close(protocol, peer)
        return tried, seen

    tried, _ = same(scenario)
    assert tried == ["('::1', PORT, 0, 0)", "('::1', PORT, 0, 1)"]


def test_a_link_local_address_keeps_its_interface():
    loopback = socket.if_nametoindex("lo")

    async def scenario():
        loop = asyncio.get_running_loop()
        tried = []

        async def sock_connect(sock, address):
            tried.append(address)
            raise ConnectionRefusedError(111, "no")

        loop.sock_connect = sock_connect
        return await outcome(loop.create_connection(Recorder, "fe80::1234%lo", 80)), tried

    (kind, _), tried = same(scenario)
    assert kind == "raises"
    (address,) = tried
    assert address[0].split("%")[0] == "fe80::1234" and address[1:] == (80, 0, loopback)


def test_sock_connect_passes_flow_and_scope_on():
    async def scenario():
        loop = asyncio.get_running_loop()
        seen = []
        with listening("::1") as listener:
            port = listener.getsockname()[1]
            for address in [("::1", port), ("::1", port, 0), ("::1", port, 0, 0), ("::1", port, 0, 1), ("::1%1", port)]:
                with socket.socket(socket.AF_INET6) as sock:
                    sock.setblocking(False)
                    seen.append(await outcome(loop.sock_connect(sock, address)))
                    peer, _ = listener.accept()
                    seen.append(peer.getpeername() == sock.getsockname())
                    peer.close()
            with socket.socket(socket.AF_INET6) as sock:
                sock.setblocking(False)
                # Its interface is named by number only; there is no such neighbour on the loopback.
                kind, error = await outcome(asyncio.wait_for(loop.sock_connect(sock, ("fe80::1", port, 0, 1)), 0.2))
                seen.append((kind, error[:2]))
        return seen

    same(scenario)


def test_a_server_with_a_scope_id(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "::1%1", 0)
        (listener,) = server.sockets
        assert listener.getsockname()[0].split("%")[0] == "::1"
        assert len(listener.getsockname()) == 4
        server.close()
        await server.wait_closed()

    run(main)


# --- happy eyeballs ------------------------------------------------------------------------------


class Attempts:
    """A `sock_connect` that is scripted by port: what happens and after how long."""

    def __init__(self, loop, script):
        self.loop, self.script = loop, script
        self.started, self.ended = [], []
        self.begin = loop.time()
        self.connect = loop.sock_connect
        loop.sock_connect = self

    async def __call__(self, sock, address):
        port = address[1]
        self.started.append((port, self.loop.time() - self.begin))
        wait, real = self.script[port]
        try:
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self.ended.append((port, "cancelled"))
            raise
        if real is None:
            self.ended.append((port, "refused"))
            raise ConnectionRefusedError(111, f"no {port}")
        await self.connect(sock, real)
        self.ended.append((port, "connected"))


@pytest.mark.parametrize(
    ("waits", "options", "order"),
    [
        # (seconds until the outcome, does it connect) of each address; which are started
        ([(5, False), (0, True)], {"happy_eyeballs_delay": 0.05}, [1, 2]),
        ([(0, True), (0, True)], {"happy_eyeballs_delay": 0.05}, [1]),
        ([(0, False), (0, False), (0, True)], {"happy_eyeballs_delay": 5}, [1, 2, 3]),
        ([(5, False), (5, False), (5, False), (0, True)], {"happy_eyeballs_delay": 0.02}, [1, 2, 3, 4]),
        ([(0.2, True), (5, False)], {"happy_eyeballs_delay": 0.05}, [1, 2]),
        ([(0, True), (0, True)], {}, [1]),
        ([(0.05, False), (0, True)], {}, [1, 2]),
    ],
)
def test_attempts_start_one_delay_apart_or_when_one_fails(waits, options, order):
    async def scenario():
        loop = asyncio.get_running_loop()
        with listening() as listener:
            script = {
                port: (wait, listener.getsockname() if connects else None)
                for port, (wait, connects) in enumerate(waits, 1)
            }
            resolve_to(loop, [("127.0.0.1", port) for port in script])
            attempts = Attempts(loop, script)
            before = loop.time()
            _, protocol = await loop.create_connection(Recorder, "name", 1, **options)
            taken = loop.time() - before
            # No attempt lives on: the losers are cancelled by the time the winner is handed out, or soon.
            await asyncio.sleep(0.02)
            assert len(attempts.ended) == len(attempts.started)
            peer, _ = listener.accept()
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
            await close(protocol, peer)
        gaps = [later[1] - earlier[1] for earlier, later in zip(attempts.started, attempts.started[1:])]
        delay = options.get("happy_eyeballs_delay")
        for gap, (wait, _) in zip(gaps, waits):
            least = wait if delay is None else min(delay, wait)
            assert least * 0.9 <= gap < least + 1
        assert taken < 2
        return [port for port, _ in attempts.started], sorted(attempts.ended)

    gc.collect()
    started, _ = same(scenario)
    assert started == order


def test_what_an_attempt_raises_that_is_no_oserror_ends_the_call():
    async def scenario():
        loop = asyncio.get_running_loop()
        resolve_to(loop, [("127.0.0.1", 1), ("127.0.0.1", 2)])

        async def sock_connect(sock, address):
            raise ZeroDivisionError("not of the network")

        loop.sock_connect = sock_connect
        return await outcome(loop.create_connection(Recorder, "name", 1))

    kind, error = same(scenario)
    assert (kind, error[0]) == ("raises", "ZeroDivisionError")


@pytest.mark.parametrize("delay", [None, 0, 0.01])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("all_errors", [False, True])
def test_what_is_raised_when_all_are_refused(delay, count, all_errors):
    if all_errors and sys.version_info < (3, 12):
        pytest.skip("all_errors is of 3.12")
    ports = [free_port() for _ in range(count)]

    async def scenario():
        loop = asyncio.get_running_loop()
        resolve_to(loop, [("127.0.0.1", port) for port in ports])
        options = {"all_errors": True} if all_errors else {}
        try:
            await loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=delay, **options)
        except BaseException as error:
            return type(error).__name__, str(error), [str(e) for e in getattr(error, "exceptions", ())]

    kind, text, inner = same(scenario)
    if all_errors:
        assert kind == "ExceptionGroup" and len(inner) == count
    else:
        assert kind == ("ConnectionRefusedError" if count == 1 else "OSError")
        assert all(str(port) in text for port in ports)


@pytest.mark.parametrize("delay", [None, 0.01])
def test_equal_errors_are_raised_once(delay):
    port = free_port()

    async def scenario():
        loop = asyncio.get_running_loop()
        resolve_to(loop, [("127.0.0.1", port)] * 3)
        return await outcome(loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=delay))

    _, error = same(scenario)
    assert error[0] == "ConnectionRefusedError"


@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": 0.25}])
def test_errors_leave_no_cycle_behind(run, options):
    """Neither the exception nor its group is kept alive by the frames it went through."""

    class Mark:
        pass

    async def main():
        loop = asyncio.get_running_loop()
        resolve_to(loop, [("127.0.0.1", free_port()), ("127.0.0.1", free_port())])
        gc.collect()
        gc.disable()
        try:
            known = None
            try:
                await loop.create_connection(Recorder, "name", 1, **options)
            except OSError as error:
                error.mark = Mark()
                known = weakref.ref(error.mark)
            await turns(3)
            assert known() is None
        finally:
            gc.enable()

    if options and sys.version_info < (3, 14):
        # asyncio's own partial keeps the list of exceptions.
        from differential import observe

        observe("aioxide", main)
    else:
        run(main)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("first", [socket.AF_INET, socket.AF_INET6])
def test_interleave_orders_as_asyncio_does(count, first):
    v6 = [("::1", port, 0, 0) for port in range(1, 5)]
    v4 = [("127.0.0.1", port) for port in range(1, 3)]
    addresses = v6 + v4 if first == socket.AF_INET6 else v4 + v6

    async def scenario():
        loop = asyncio.get_running_loop()
        tried = []
        resolve_to(loop, addresses)

        async def sock_connect(sock, address):
            tried.append(address)
            raise ConnectionRefusedError(111, "no")

        loop.sock_connect = sock_connect
        for delay in (None, 1):
            await outcome(loop.create_connection(Recorder, "name", 1, interleave=count, happy_eyeballs_delay=delay))
            tried.append("then")
        return tried

    same(scenario)


def test_an_address_nobody_answers_and_one_that_refuses_do_not_hinder_the_third(run, is_ours):
    if not is_ours:
        pytest.skip("asyncio leaves the loser to the garbage collector")

    async def main():
        loop = asyncio.get_running_loop()
        with silent() as nowhere, listening() as listener:
            resolve_to(loop, [nowhere, ("127.0.0.1", free_port()), listener.getsockname()])
            before, tasks = loop.time(), asyncio.all_tasks()
            transport, protocol = await loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=0.05)
            assert 0.04 < loop.time() - before < 2
            assert transport.get_extra_info("peername") == listener.getsockname()
            peer, _ = listener.accept()
            await close(protocol, peer)
            assert asyncio.all_tasks() == tasks

    run(main)


# --- local_addr ----------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [None, 0.01])
def test_local_addresses_of_the_wrong_family(delay):
    port = free_port()

    async def scenario():
        loop = asyncio.get_running_loop()
        return await outcome(
            loop.create_connection(Recorder, "127.0.0.1", port, local_addr=("::1", 0), happy_eyeballs_delay=delay)
        )

    same(scenario)


def test_the_first_local_address_that_can_be_bound_is_taken():
    async def scenario():
        loop = asyncio.get_running_loop()
        with listening() as taken, listening() as listener:
            answers = {
                "there": [listener.getsockname()],
                "here": [("::1", 0, 0, 0), taken.getsockname(), ("127.0.0.3", 0), ("127.0.0.4", 0)],
                "nowhere": [taken.getsockname(), taken.getsockname()],
            }

            async def getaddrinfo(host, port, **options):
                return [info(address) for address in answers[host]]

            loop.getaddrinfo = getaddrinfo
            transport, protocol = await loop.create_connection(Recorder, "there", 1, local_addr=("here", 0))
            peer, address = listener.accept()
            bound = address[0], transport.get_extra_info("sockname") == address
            await close(protocol, peer)
            failure = await outcome(loop.create_connection(Recorder, "there", 1, local_addr=("nowhere", 0)))
            return bound, failure

    bound, (kind, _) = same(scenario)
    assert bound == ("127.0.0.3", True) and kind == "raises"


def test_an_empty_answer_for_the_local_address():
    async def scenario():
        loop = asyncio.get_running_loop()

        async def getaddrinfo(host, port, **options):
            return []

        loop.getaddrinfo = getaddrinfo
        return await outcome(loop.create_connection(Recorder, "127.0.0.1", 1, local_addr=("local", 0)))

    same(scenario)
