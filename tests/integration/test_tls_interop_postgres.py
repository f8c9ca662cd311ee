"""asyncpg and psycopg over TLS to a private PostgreSQL with a certificate of a private CA.

asyncpg upgrades its connection by `loop.start_tls`; psycopg's TLS is libpq's own, in the same process.
"""

import asyncio
import contextlib
import ssl

import postgres
import pytest
from peers import PATIENCE_S
from tls_peers import content, digest, wheel

TLS_OF_THIS_CONNECTION = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
ROWS = [(number, f"row {number}" * 20) for number in range(20_000)]


@pytest.fixture(scope="module")
def address(pki):
    with postgres.server(postgres.required(), tls=(pki.cert, pki.key)) as environment:
        yield {"host": environment["PGHOST"], "port": int(environment["PGPORT"])}


@pytest.fixture(scope="module")
def psycopg():
    """Imported before a test looks which descriptors are open: ctypes keeps one of libffi."""
    return wheel("psycopg")


@pytest.fixture
def connect(address):
    asyncpg = wheel("asyncpg")

    @contextlib.asynccontextmanager
    async def connect(ssl="require", **options):
        options = {**address, "user": "postgres", "database": "postgres", "timeout": PATIENCE_S, **options}
        connection = await asyncpg.connect(**options, ssl=ssl)
        try:
            yield connection
        finally:
            await connection.close(timeout=PATIENCE_S)

    return connect


def verifying(pki, monkeypatch, tmp_path):
    """`sslmode=verify-full`, for which libpq and asyncpg look for the CA in a file."""
    monkeypatch.setenv("PGSSLROOTCERT", pki.ca)
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("HOME", str(tmp_path))  # no certificates of the user's own


@pytest.mark.parametrize("mode", ["require", "verify-full", "a context"])
def test_asyncpg_connects(run, pki, connect, mode, monkeypatch, tmp_path):
    if mode == "verify-full":
        verifying(pki, monkeypatch, tmp_path)

    async def main():
        how = {"require": "require", "verify-full": None, "a context": pki.client()}[mode]
        async with connect(how) as connection:
            assert tuple(await connection.fetchrow(TLS_OF_THIS_CONNECTION)) == (True, "TLSv1.3")
            assert await connection.fetchval("SELECT $1::int + 1", 41) == 42

    run(main)


def test_asyncpg_does_not_know_the_ca(run, pki, connect):
    async def main():
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
            async with connect(ssl.create_default_context(cafile=pki.client_cert)):
                pass

    run(main)


def test_asyncpg_speaks_tls_1_2(run, pki, connect):
    async def main():
        async with connect(pki.client("tls1_2")) as connection:
            assert tuple(await connection.fetchrow(TLS_OF_THIS_CONNECTION)) == (True, "TLSv1.2")

    run(main)


def test_asyncpg_sends_and_gets_large_values(run, pki, connect):
    data = content(8_000_000)

    async def main():
        async with connect(pki.client()) as connection:
            value = await connection.fetchval("SELECT $1::bytea || $1", data)
            assert digest(value) == digest(data + data)
            total = 0
            async with connection.transaction():
                async for record in connection.cursor("SELECT generate_series(1, 30000) AS n", prefetch=1000):
                    total += record["n"]
            assert total == 30000 * 30001 // 2

    run(main)


@pytest.mark.usefixtures("sslproto_of_3_11")
def test_asyncpg_copies(run, pki, connect, tmp_path):
    async def main():
        async with connect(pki.client()) as connection:
            await connection.execute("CREATE TEMP TABLE rows (number int, text text)")
            assert await connection.copy_records_to_table("rows", records=ROWS) == f"COPY {len(ROWS)}"
            pieces = []

            async def output(piece):
                pieces.append(piece)

            await connection.copy_from_query("SELECT * FROM rows ORDER BY number", output=output)
            expected = "".join(f"{number}\t{text}\n" for number, text in ROWS).encode()
            assert digest(b"".join(pieces)) == digest(expected)

            async def source():
                for start in range(0, len(expected), 50_000):
                    yield expected[start : start + 50_000]

            assert await connection.copy_to_table("rows", source=source()) == f"COPY {len(ROWS)}"
            assert await connection.fetchval("SELECT count(*) FROM rows") == 2 * len(ROWS)

    run(main)


def test_asyncpg_listens(run, pki, connect):
    async def main():
        heard = asyncio.Queue()
        async with connect(pki.client()) as listener, connect(pki.client()) as speaker:
            await listener.add_listener("news", lambda *args: heard.put_nowait(args[2:]))
            for number in range(200):
                await speaker.execute(f"NOTIFY news, 'number {number}'")
            got = [await asyncio.wait_for(heard.get(), PATIENCE_S) for _ in range(200)]
            await listener.reset()
        assert got == [("news", f"number {number}") for number in range(200)]

    run(main)


def test_asyncpg_cancels_a_statement(run, pki, connect):
    """The request for it goes over a connection of its own, with TLS as well."""

    async def main():
        async with connect(pki.client()) as connection:
            with pytest.raises(asyncio.TimeoutError):
                await connection.execute("SELECT pg_sleep(30)", timeout=0.1)
            assert await connection.fetchval("SELECT 1") == 1

    run(main)


def test_a_pool_of_asyncpg(run, pki, address):
    asyncpg = wheel("asyncpg")

    async def main():
        async with asyncpg.create_pool(
            **address, user="postgres", database="postgres", ssl=pki.client(), min_size=2, max_size=8
        ) as pool:
            queries = (pool.fetchval("SELECT $1::int * 2 FROM pg_sleep(0.001)", number) for number in range(200))
            assert await asyncio.gather(*queries) == [2 * number for number in range(200)]

    run(main)


def test_the_server_ends_a_connection_of_asyncpg(run, pki, connect):
    asyncpg = wheel("asyncpg")

    async def main():
        async with connect(pki.client()) as connection, connect(pki.client()) as killer:
            waiting = asyncio.ensure_future(connection.execute("SELECT pg_sleep(30)"))
            await asyncio.sleep(0.05)
            assert await killer.fetchval("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            # The server's last words and the end of the connection come together: asyncpg tells of one of them.
            with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
                await waiting
            while not connection.is_closed():
                await asyncio.sleep(0.01)

    run(main)


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_psycopg(run, pki, address, mode, psycopg):
    async def main():
        async with await psycopg.AsyncConnection.connect(
            **address, user="postgres", dbname="postgres", sslmode=mode, sslrootcert=pki.ca, autocommit=True
        ) as connection:
            async with connection.cursor() as cursor:
                await cursor.execute(TLS_OF_THIS_CONNECTION)
                assert await cursor.fetchone() == (True, "TLSv1.3")
                await cursor.execute("CREATE TEMP TABLE rows (number int, text text)")
                async with cursor.copy("COPY rows FROM STDIN") as copy:
                    for row in ROWS[:2000]:
                        await copy.write_row(row)
                await cursor.execute("SELECT * FROM rows ORDER BY number")
                assert await cursor.fetchall() == ROWS[:2000]
            await connection.execute("LISTEN news")
            await connection.execute("NOTIFY news, 'hello'")
            async for notify in connection.notifies(timeout=PATIENCE_S, stop_after=1):
                assert (notify.channel, notify.payload) == ("news", "hello")

    run(main)
