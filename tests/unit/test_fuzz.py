"""The fuzzer finds bugs that are planted, and makes them small; against itself asyncio shows none."""

import json
import re
import subprocess
import sys
from pathlib import Path

import aioxide
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
try:
    from fuzz import planted, sequences
    from fuzz.operations import AIOXIDE_HAS, OPERATIONS
    from fuzz.shrink import shrink
finally:
    sys.path.remove(str(ROOT))

PLANTS = [
    name
    for name, value in vars(planted).items()
    if name.islower() and isinstance(value, type) and value.feature in AIOXIDE_HAS
]

#: A method of each feature, which raises NotImplementedError as long as aioxide has not got it.
METHODS = {
    "unix": "create_unix_server",
    "datagram": "create_datagram_endpoint",
    "pipes": "connect_read_pipe",
    "subprocess": "subprocess_exec",
    "signals": "add_signal_handler",
    "sendfile": "sendfile",
}


def fuzz(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "fuzz", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=110
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found_within_the_short_mode_and_made_small(name, tmp_path):
    limits = ("--late", 0.5, "--shrink", 6 if name == "hangs" else 20, "--limit", 3 if name == "hangs" else 20)
    loop = ("--loop", f"fuzz.planted:{name}", "--features", getattr(planted, name).feature, *limits)
    done = fuzz("--seed", 0, "--save", tmp_path, *loop)
    assert done.returncode == 1, done.stdout + done.stderr
    small = re.search(r"as small as it gets, (\d+) steps", done.stdout)
    assert small is not None, done.stdout
    assert int(small[1]) <= (60 if name == "hangs" else 12), done.stdout
    if name == "dies":
        assert "ended by SIGSEGV" in done.stdout
    if name == "hangs":
        assert "it hangs" in done.stdout
        return
    again = fuzz("--replay", next(tmp_path.glob("*.json")), *loop)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (1, "it differs")


@pytest.mark.timeout(120)
def test_asyncio_does_not_differ_from_itself():
    done = fuzz("--self-check", "--seed", 0, "--steps", 10_000)
    assert done.returncode == 0, done.stdout


def test_the_same_seed_is_the_same_sequences_however_many_work_on_them():
    runs = [fuzz("--seed", 3, "--steps", 3000, "--jobs", jobs, "--self-check").stdout for jobs in (1, 3)]
    ends = [re.search(r"fuzz: \d+ steps in \d+ sequences", run)[0] for run in runs]
    assert ends[0] == ends[1]


def test_the_seed_is_printed_and_gives_the_same_steps():
    assert sequences.draw(5, {"base"}) == sequences.draw(5, {"base"})
    assert sequences.draw(5, {"base"}) != sequences.draw(6, {"base"})
    assert json.loads(json.dumps(sequences.draw(7, {"base"})))
    done = fuzz("--steps", 1, "--jobs", 1)
    assert re.match(r"fuzz: seed \d+, asyncio against aioxide: ", done.stdout)


def test_every_step_is_drawn_and_every_feature_has_steps():
    # The gate takes some 2500 sequences.
    drawn = {step[0] for seed in range(1000) for step in sequences.draw(seed, set(AIOXIDE_HAS))}
    assert set(OPERATIONS) <= drawn
    assert {operation.feature for operation in OPERATIONS.values()} == set(AIOXIDE_HAS)


@pytest.mark.parametrize("feature", METHODS)
def test_what_aioxide_has_is_switched_on(feature):
    method = getattr(aioxide.EventLoop, METHODS[feature])
    is_missing = "not implemented yet" in (method.__doc__ or "")
    assert AIOXIDE_HAS[feature] is not is_missing, "change AIOXIDE_HAS in fuzz/operations.py"


def test_shrinking_leaves_what_is_needed():
    steps = [["a", 1], ["task", [["sleep", 2], ["try", [["raise", 5]], [["sleep", 1]]]]], ["b", 3], ["c", [0, None]]]

    def fails(candidate):
        text = json.dumps(candidate)
        return "raise" in text and '"b"' in text

    assert shrink(steps, fails, 10) == [["task", [["try", [["raise", 5]], []]]], ["b", 0]]


def test_wrong_usage_is_said():
    assert fuzz("--features", "telepathy").returncode == 2
    assert "--replay" in fuzz("--help").stdout
