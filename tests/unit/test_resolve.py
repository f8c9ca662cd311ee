"""`getaddrinfo` and `getnameinfo`: answers, threads of their own, numeric hosts, what programs patch."""

import asyncio
import inspect
import logging
import socket
import threading
import unittest.mock

import pytest
from aioxide import _native, _resolve

LIMIT_S = 10


def ask(run, *args, **kwargs):
    """The loop's answer, or its error."""

    async def main():
        return await asyncio.get_running_loop().getaddrinfo(*args, **kwargs)

    try:
        return run(main)
    except Exception as error:
        return type(error), str(error)


def stock(*args, **kwargs):
    try:
        return socket.getaddrinfo(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)


HOSTS = [
    "127.0.0.1",
    "::1",
    "::0001",
    "::ffff:1.2.3.4",
    "0.0.0.0",
    "255.255.255.255",
    "fe80::1%lo",
    "fe80::1%1",
    "fe80::1%no-such-interface",
    "127.0.0.1%lo",
    "127.1",
    "0x7f.1",
    "010.0.0.1",
    "[::1]",
    b"127.0.0.1",
    "localhost",
    "",
    None,
    "1.2.3.4\0",
]
WAYS = [
    {},
    {"type": socket.SOCK_STREAM},
    {"type": socket.SOCK_DGRAM, "proto": socket.IPPROTO_UDP},
    {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_UDP},
    {"family": socket.AF_INET},
    {"family": socket.AF_INET6, "type": socket.SOCK_STREAM},
    {"family": socket.AF_INET6, "type": socket.SOCK_STREAM, "flags": socket.AI_V4MAPPED},
    {"type": socket.SOCK_RAW},
    {"type": socket.SOCK_STREAM, "flags": socket.AI_CANONNAME | socket.AI_NUMERICHOST},
    {"type": socket.SOCK_STREAM, "flags": socket.AI_ADDRCONFIG | socket.AI_PASSIVE},
]


@pytest.mark.parametrize("host", HOSTS, ids=repr)
def test_the_answer_is_that_of_the_socket_module(run, host):
    for way in WAYS:
        if host == "localhost" and way.get("flags", 0) & socket.AI_NUMERICHOST:
            continue
        assert ask(run, host, 80, **way) == stock(host, 80, **way), way


@pytest.mark.parametrize("port", [0, 65535, 70000, -1, 2**70, None, "80", b"80", "http", True, 1.5, ""], ids=repr)
def test_every_kind_of_port_is_answered_as_by_the_socket_module(run, port):
    assert ask(run, "127.0.0.1", port, type=socket.SOCK_STREAM) == stock("127.0.0.1", port, type=socket.SOCK_STREAM)


def test_getnameinfo_answers_as_the_socket_module(run):
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(socket.gaierror):
            await loop.getnameinfo(("127.0.0.256", 80), flags)
        return await loop.getnameinfo(("127.0.0.1", 80), flags)

    assert run(main) == socket.getnameinfo(("127.0.0.1", 80), flags)


def test_both_are_coroutine_functions(new_loop):
    loop = new_loop()
    assert inspect.iscoroutinefunction(loop.getaddrinfo)
    assert inspect.iscoroutinefunction(loop.getnameinfo)


def test_after_shutdown_and_after_close_they_are_refused(new_loop):
    loop = new_loop()

    async def main():
        await loop.shutdown_default_executor()
        for coroutine in (
            loop.getaddrinfo("127.0.0.1", 1),
            loop.getaddrinfo("localhost", 1),
            loop.getnameinfo(("127.0.0.1", 1)),
        ):
            with pytest.raises(RuntimeError, match=r"^Executor shutdown has been called$"):
                await coroutine

    loop.run_until_complete(main())
    loop.close()
    for coroutine in (loop.getaddrinfo("127.0.0.1", 1), loop.getnameinfo(("127.0.0.1", 1))):
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            coroutine.send(None)


# --- threads ---------------------------------------------------------------------------------------


class Resolver:
    """Stands in for `socket.getaddrinfo`: answers when it may, and tells in which threads it ran."""

    def __init__(self, monkeypatch):
        self.threads, self.asked = [], []
        self.entered, self.may_go = threading.Semaphore(0), threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host, port, *rest):
        self.threads.append(threading.current_thread().name)
        self.asked.append(host)
        self.entered.release()
        assert self.may_go.wait(LIMIT_S)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    def wait_until_entered(self):
        assert self.entered.acquire(timeout=LIMIT_S)


def test_a_replaced_getaddrinfo_is_asked_in_a_thread_also_for_numeric_hosts(run, monkeypatch, is_ours):
    resolver = Resolver(monkeypatch)
    resolver.may_go.set()

    async def main():
        return await asyncio.get_running_loop().getaddrinfo("1.2.3.4", 5)

    assert run(main) == [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 5))]
    assert resolver.threads == ["aioxide-dns_0" if is_ours else "asyncio_0"]


def test_a_getaddrinfo_replaced_while_the_loop_runs_is_found(run, monkeypatch):
    async def main():
        loop = asyncio.get_running_loop()
        await loop.getaddrinfo("127.0.0.1", 1)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args: args)
        return await loop.getaddrinfo("127.0.0.1", 1)

    assert run(main) == ("127.0.0.1", 1, 0, 0, 0, 0)


@pytest.mark.aioxide_only
def test_a_numeric_host_takes_no_thread(run):
    async def main():
        loop = asyncio.get_running_loop()
        for host in ("127.0.0.1", "::1", "fe80::1%lo"):
            await loop.getaddrinfo(host, 80)
        return loop._default_executor, loop._dns_executor

    assert run(main) == (None, None)


@pytest.mark.aioxide_only
def test_names_are_resolved_while_the_executor_is_full_and_the_other_way_round(run, monkeypatch):
    resolver = Resolver(monkeypatch)
    may_go = threading.Event()

    async def main():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, int)
        loop._default_executor._max_workers = 1
        blocked = loop.run_in_executor(None, may_go.wait, LIMIT_S)
        lookups = [asyncio.create_task(loop.getaddrinfo(f"name-{i}", 1)) for i in range(6)]
        await asyncio.sleep(0)
        for _ in range(loop.dns_threads):
            resolver.wait_until_entered()
        assert not blocked.done()
        may_go.set()
        await blocked
        # All threads for names are busy; the executor answers.
        assert await loop.run_in_executor(None, abs, -1) == 1
        assert not any(lookup.done() for lookup in lookups)
        resolver.may_go.set()
        await asyncio.gather(*lookups)

    run(main)
    assert set(resolver.threads) == {f"aioxide-dns_{i}" for i in range(4)}


@pytest.mark.aioxide_only
def test_a_default_executor_that_was_set_is_not_used_for_names(run, monkeypatch):
    resolver = Resolver(monkeypatch)
    resolver.may_go.set()

    async def main():
        loop = asyncio.get_running_loop()
        loop._default_executor = unittest.mock.Mock()
        await loop.getaddrinfo("name", 1)
        assert loop._default_executor.mock_calls == []
        loop._default_executor = None

    run(main)
    assert resolver.threads == ["aioxide-dns_0"]


def test_a_lookup_that_was_cancelled_before_it_began_does_not_run(run, monkeypatch, is_ours):
    resolver = Resolver(monkeypatch)

    async def main():
        loop = asyncio.get_running_loop()
        if is_ours:
            loop.dns_threads = 1
        else:
            loop.set_default_executor(__import__("concurrent.futures").futures.ThreadPoolExecutor(1))
        tasks = [asyncio.create_task(loop.getaddrinfo(name, 1)) for name in ("first", "cancelled", "last")]
        await asyncio.sleep(0)
        resolver.wait_until_entered()
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        resolver.may_go.set()
        await asyncio.gather(tasks[0], tasks[2])
        assert tasks[1].cancelled()

    run(main)
    assert resolver.asked == ["first", "last"]


def test_shutdown_joins_the_threads(run, monkeypatch):
    resolver = Resolver(monkeypatch)
    resolver.may_go.set()

    async def main():
        loop = asyncio.get_running_loop()
        await loop.getaddrinfo("name", 1)
        await loop.shutdown_default_executor()

    run(main)
    names = {thread.name for thread in threading.enumerate()}
    assert not names & set(resolver.threads)


def test_close_waits_for_no_answer(new_loop, monkeypatch):
    resolver = Resolver(monkeypatch)
    loop = new_loop()

    async def main():
        task = asyncio.create_task(loop.getaddrinfo("name", 1))
        await asyncio.sleep(0)
        resolver.wait_until_entered()
        task.cancel()
        await asyncio.wait([task])

    loop.run_until_complete(main())
    loop.close()
    (thread,) = [thread for thread in threading.enumerate() if thread.name in resolver.threads]
    assert thread.is_alive()
    resolver.may_go.set()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


# --- how many ---------------------------------------------------------------------------------------


@pytest.mark.aioxide_only
def test_the_number_of_threads_is_an_attribute_or_of_the_environment(new_loop, monkeypatch):
    assert new_loop().dns_threads == _resolve.DNS_THREADS == 4
    monkeypatch.setenv("AIOXIDE_DNS_THREADS", "2")
    loop = new_loop()
    assert loop.dns_threads == 2
    loop.dns_threads = 256
    assert loop.dns_threads == 256
    assert new_loop().dns_threads == 2


@pytest.mark.aioxide_only
@pytest.mark.parametrize("number", ["0", "257", "-1", "many", "1.5"])
def test_a_number_out_of_range_is_a_value_error(new_loop, monkeypatch, number):
    loop = new_loop()
    with pytest.raises(ValueError, match=rf"^dns_threads must be a number from 1 to 256, got {number!r}$"):
        loop.dns_threads = number
    assert loop.dns_threads == 4
    monkeypatch.setenv("AIOXIDE_DNS_THREADS", number)
    with pytest.raises(ValueError, match=rf"^AIOXIDE_DNS_THREADS must be a number from 1 to 256, got {number!r}$"):
        loop = new_loop()
        loop.run_until_complete(loop.getaddrinfo("localhost", 1))


@pytest.mark.aioxide_only
def test_more_threads_for_a_loop_that_has_some(run, monkeypatch):
    resolver = Resolver(monkeypatch)

    async def main():
        loop = asyncio.get_running_loop()
        loop.dns_threads = 1
        tasks = [asyncio.create_task(loop.getaddrinfo("a", 1))]
        await asyncio.sleep(0)
        resolver.wait_until_entered()
        loop.dns_threads = 2
        tasks.append(asyncio.create_task(loop.getaddrinfo("b", 1)))
        await asyncio.sleep(0)
        resolver.wait_until_entered()
        resolver.may_go.set()
        await asyncio.gather(*tasks)

    run(main)
    assert resolver.threads == ["aioxide-dns_0", "aioxide-dns_1"]


# --- debug mode -------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_debug_mode_logs_the_question_and_the_answer(run, caplog, host):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        with caplog.at_level(logging.DEBUG, "asyncio"):
            await loop.getaddrinfo(host, 80, type=socket.SOCK_STREAM)

    run(main)
    lines = [record.getMessage() for record in caplog.records if "address info" in record.getMessage()]
    assert len(lines) == 2
    assert lines[0] == f"Get address info {host}:80, type={socket.SOCK_STREAM!r}"
    assert lines[1].startswith(f"Getting address info {host}:80, type={socket.SOCK_STREAM!r} took ")


# --- the order of addresses, and addresses without a question ------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:1.2.3.4", b"127.0.0.1"], ids=repr)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_literal_address_is_what_the_socket_module_would_answer(host, kind):
    answer = socket.getaddrinfo(host, 80, type=kind)
    assert [_native.literal_address(host, 80, 0, kind, 0)] == answer


@pytest.mark.parametrize("host", ["localhost", "fe80::1%lo", "127.1", "", None], ids=repr)
def test_what_is_no_literal_address_must_be_asked_for(host):
    assert _native.literal_address(host, 80, 0, socket.SOCK_STREAM, 0) is None


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:1.2.3.4", "::1.2.3.4", "fe80::1", "2001:DB8::1", "0::1", "1.2.3"],
)
@pytest.mark.parametrize("family", [0, socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, 0])
def test_an_answer_without_asking_is_the_stock_answer(host, family, kind):
    answer = _native.literal_answer(host, 80, family, kind, 0)
    if answer is not None:
        stock = socket.getaddrinfo(host, 80, family, kind)
        assert answer == stock
        assert [type(part) for part in answer[0]] == [type(part) for part in stock[0]]
    else:
        assert (
            host in ("2001:DB8::1", "0::1", "1.2.3")
            or kind == 0
            or family not in (0, socket.AF_INET6 if ":" in host else socket.AF_INET)
        )
