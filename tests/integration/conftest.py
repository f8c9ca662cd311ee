"""Fixtures of the tests of write gathering."""

import pytest
from gathering import warm
from peers import Recorder, connect


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
