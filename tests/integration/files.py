"""What tests of sendfile have in common: files of all kinds, and who receives them."""

import asyncio
import contextlib
import io
import os
import select
import threading

SIZE = 300_000
CONTENT = bytes(range(256)) * (SIZE // 256) + b"end"


class Collector(threading.Thread):
    """Receives all that comes from a socket, up to its end, in a thread."""

    def __init__(self, sock):
        super().__init__(daemon=True)
        self.sock = sock
        self.data = bytearray()
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while piece := self.sock.recv(1 << 16):
                self.data += piece

    async def all(self):
        """To be asked for once the other end is closed."""
        while self.is_alive():
            await asyncio.sleep(0.001)
        self.join()
        self.sock.close()
        return bytes(self.data)


async def begun(sock):
    """Something has arrived."""
    while not select.select([sock], [], [], 0)[0]:
        await asyncio.sleep(0.001)


class Unseekable(io.RawIOBase):
    """A file that can only be read."""

    seek = property(lambda self: (_ for _ in ()).throw(AttributeError("seek")))

    def __init__(self, content):
        self._content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._content.readinto(buffer)


class Failing(io.RawIOBase):
    def readable(self):
        return True

    def readinto(self, buffer):
        raise ZeroDivisionError("while reading")


class Numberless(io.BytesIO):
    """The descriptor that it names is none."""

    def fileno(self):
        return 1 << 20


def opened(kind, path):
    """A file object of each kind; each is to be closed."""
    if kind == "file":
        return path.open("rb")
    if kind == "unbuffered":
        return path.open("rb", buffering=0)
    if kind == "text":
        return path.open("r")
    if kind == "writable":
        return path.open("r+b")
    if kind == "empty":
        return open(os.devnull, "rb")
    if kind == "zeros":
        return open("/dev/zero", "rb", buffering=0)
    if kind == "proc":
        return open("/proc/cpuinfo", "rb")
    if kind == "closed":
        file = path.open("rb")
        file.close()
        return file
    if kind == "pipe":
        reader, writer = os.pipe()
        os.write(writer, b"from the pipe")
        os.close(writer)
        return open(reader, "rb", buffering=0)
    return {
        "bytes": lambda: io.BytesIO(CONTENT),
        "buffered": lambda: io.BufferedReader(io.BytesIO(CONTENT)),
        "unseekable": lambda: Unseekable(CONTENT),
        "failing": Failing,
        "numberless": lambda: Numberless(CONTENT),
    }[kind]()


def position(file):
    """Where the file is left, of the object and of the descriptor."""
    found = []
    for ask in (lambda: file.tell(), lambda: os.lseek(file.fileno(), 0, os.SEEK_CUR)):
        try:
            found.append(ask())
        except Exception as error:
            found.append(type(error).__name__)
    return found


async def call(method, *args, **kwargs):
    return await method(*args, **kwargs)
