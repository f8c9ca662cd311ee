"""The fuzzer of TLS records finds bugs that are planted; on asyncio it shows none, and each seed is one case."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
try:
    from fuzz import mutations, tls_peers
finally:
    sys.path.remove(str(ROOT))


def fuzz(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "fuzz.records", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.version_info < (3, 11), reason="the bugs are planted in asyncio's TLS of 3.11")
@pytest.mark.parametrize(
    "name, seed, says",
    [
        ("loses_a_byte_between_records", 1, "it got what the peer did not write"),
        ("tells_the_end_of_tls_twice", 1, "the protocol was told ['made', 'eof', 'eof', 'lost']"),
        ("swallows_an_error_of_tls", 140, "a record was broken, and it ends with None"),
        ("forgets_the_shutdown_timer", 160, "its timers do not end it"),
        ("leaks_a_descriptor", 1, "descriptors are left"),
    ],
)
def test_a_planted_bug_is_found(name, seed, says):
    done = fuzz("--loop", f"fuzz.planted:{name}", "--engine", "direct", "--seed", seed)
    assert done.returncode == 1, done.stdout + done.stderr
    assert says in done.stdout


@pytest.mark.timeout(120)
def test_a_crash_is_told_with_its_seed():
    done = fuzz("--loop", "fuzz.planted:dies", "--engine", "direct", "--cases", 50)
    assert done.returncode == 1
    assert "seed " in done.stdout
    assert "Segmentation fault" in done.stdout


@pytest.mark.timeout(120)
def test_asyncio_passes():
    done = fuzz("--loop", "asyncio", "--engine", "direct", "--cases", 100)
    assert done.returncode == 0, done.stdout


def test_every_stream_is_whole_records():
    streams = sorted(tls_peers.FOLDER.glob("*.bin"))
    assert len(streams) >= 20
    for path in streams:
        stream = path.read_bytes()
        assert b"".join(mutations.records(stream)) == stream
        kinds = {record[0] for record in mutations.records(stream)}
        assert kinds <= {20, 21, 22, 23}, path


def test_a_seed_is_always_the_same_mutations():
    stream = (tls_peers.FOLDER / "1.3-data-client.bin").read_bytes()
    made = [[mutations.Mutator(random.Random(seed)).pass_on(stream) for seed in range(200)] for _ in range(2)]
    assert made[0] == made[1]
    assert sum(one != stream for one in made[0]) > 100
    assert stream in made[0]


def test_every_mutation_changes_a_record():
    record = b"\x17\x03\x03\x00\x20" + bytes(32)
    for change in mutations.MUTATIONS:
        made = {b"".join(change(random.Random(seed), record)) for seed in range(20)}
        assert made - {record}, change


def test_wrong_usage_is_said():
    assert fuzz("--engine", "steam").returncode == 2
    assert "--minutes" in fuzz("--help").stdout
