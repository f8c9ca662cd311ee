"""An `SSL` of OpenSSL's that is freed while aioxide finds out which one is its own: nothing of it is looked at."""

import os
import subprocess
import sys

import pytest

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

PROGRAM = """
import asyncio, gc, ssl
import aioxide
from certificates import contexts

held = []

def another():
    return contexts()[1].wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")

def overwrite():
    gc.collect()
    return [bytearray(b"\\xff" * size) for size in range(100, 9000, 40)]

class Late(ssl.SSLObject):
    '''The other one goes when somebody asks for the inner object.'''

    @property
    def _sslobj(self):
        held.clear()
        overwrite()
        return self.__dict__["real"]

    @_sslobj.setter
    def _sslobj(self, value):
        self.__dict__["real"] = value

class Keeps(ssl.SSLContext):
    sslobject_class = Late

    def wrap_bio(self, *args, **keywords):
        made = super().wrap_bio(*args, **keywords)
        held.append(another())
        return made

class Drops(ssl.SSLContext):
    def wrap_bio(self, *args, **keywords):
        made = super().wrap_bio(*args, **keywords)
        another()
        overwrite()
        return made

async def answer(reader, writer):
    writer.write(await reader.read(10))
    writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=contexts()[0])
    for kind in (Keeps, Drops) * 5:
        context = kind(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=context)
        writer.write(b"hello")
        print((await reader.read()).decode())
        writer.close()
        await writer.wait_closed()
    server.close()

aioxide.run(main())
"""


@pytest.mark.aioxide_only
def test_an_object_that_is_freed_meanwhile():
    path = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])
    # glibc overwrites what is freed.
    environment = {**os.environ, "PYTHONPATH": path, "MALLOC_PERTURB_": "165"}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "hello\n" * 10), done.stderr
