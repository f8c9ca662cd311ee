"""Fixtures of the tests of write gathering, of signals, of sendfile and of TLS."""

import os
import signal
import sys

import pytest
import tls_peers
from files import CONTENT
from gathering import warm
from peers import TOO_MUCH, Recorder, connect
from tls import Certificates


@pytest.fixture(params=["cold", "warm"])
def temperature(request, loop_name):
    if request.param == "warm" and loop_name == "asyncio":
        pytest.skip("asyncio has no such thing")
    return request.param


@pytest.fixture
def pair(temperature):
    """Connects a transport, which is brought to its temperature."""

    async def pair(make=Recorder):
        protocol, peer = await connect(make)
        if temperature == "warm":
            await warm(protocol, peer)
        return protocol, peer

    return pair


@pytest.fixture
def signals_untouched():
    """Handlers and the wake-up descriptor are as before."""
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGRTMIN)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert signal.set_wakeup_fd(-1) == -1
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture
def own_pipe():
    """A pipe of the program's own."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """A private CA with the keys and certificates of a server and of a client."""
    return tls_peers.Files(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def sslproto_of_3_11(loop_name):
    """asyncio of 3.10 has another sslproto: it answers no close_notify, and tells the protocol of no end."""
    if sys.version_info < (3, 11) and loop_name == "asyncio":
        pytest.skip("aioxide closes as asyncio does from 3.11 on")


@pytest.fixture(scope="session")
def sent_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sendfile") / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(scope="session")
def large_file(tmp_path_factory):
    """More than a connection's buffers hold."""
    path = tmp_path_factory.mktemp("sendfile") / "large"
    with path.open("wb") as file:
        file.truncate(TOO_MUCH)
    return path


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))
