"""Streams: an echo server and its clients, over TCP, in one program."""

import asyncio


async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()  # waits while a slow peer leaves too much in the buffer
    writer.close()
    await writer.wait_closed()


async def talk(port, name, lines):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for line in lines:
        writer.write(f"{name} says {line}\n".encode())
        await writer.drain()
        answers.append((await reader.readline()).decode().rstrip())
    writer.write_eof()
    rest = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answers, rest


async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        people = ["anna", "bob", "carol"]
        talks = await asyncio.gather(*(talk(port, name, ["hello", "bye"]) for name in people))
        for answers, rest in talks:
            print(answers, "end of file:", rest == b"")

        big = "x" * 50_000
        (answer,), _ = await talk(port, "dave", [big])
        print("a long line comes back whole:", answer == f"DAVE SAYS {big.upper()}")
    print("server closed:", not server.is_serving())


asyncio.run(main())
