"""`install()` turns asyncio's own entry points to our loop; `uninstall()` puts all back."""

import asyncio
import asyncio.events
import asyncio.runners
import asyncio.unix_events
import subprocess
import sys
import unittest
import warnings
from asyncio import new_event_loop as imported_before
from asyncio import run as run_imported_before

import aioxide
import pytest

pytestmark = pytest.mark.filterwarnings(
    r"ignore:'asyncio\..*policy:DeprecationWarning",
    r"ignore:'asyncio\..*Policy:DeprecationWarning",
)


async def kind_of_loop():
    return type(asyncio.get_running_loop())


def kind_of_new_loop(make):
    loop = make()
    loop.close()
    return type(loop)


def snapshot():
    """Everything of asyncio that install() could have changed, by identity."""
    found = {"policy": asyncio.events._event_loop_policy}
    for module in (asyncio, asyncio.events, asyncio.runners, asyncio.unix_events):
        for name, value in vars(module).items():
            found[module.__name__, name] = value
            if isinstance(value, type):
                for attribute, what in vars(value).items():
                    found[module.__name__, name, attribute] = what
    found.pop(("asyncio.events", "_event_loop_policy"))
    return found


def differences(before, after):
    return [
        key
        for key in before.keys() | after.keys()
        if before.get(key) is not after.get(key) and key[-1] not in ("__doc__", "__dict__")
    ]


@pytest.fixture
def installed():
    aioxide.install()
    yield
    aioxide.uninstall()


def test_import_and_a_round_trip_change_nothing():
    before = snapshot()
    aioxide.install()
    assert differences(before, snapshot())
    aioxide.uninstall()
    assert not differences(before, snapshot())


def test_the_policy_in_use_comes_back_with_its_loop():
    aioxide.uninstall()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    aioxide.install()
    aioxide.uninstall()
    assert asyncio.get_event_loop_policy().get_event_loop() is loop
    asyncio.set_event_loop(None)
    loop.close()


def test_both_are_idempotent():
    before = snapshot()
    aioxide.uninstall()
    aioxide.install()
    policy = asyncio.events._event_loop_policy
    aioxide.install()
    assert asyncio.events._event_loop_policy is policy
    aioxide.uninstall()
    aioxide.uninstall()
    assert not differences(before, snapshot())


def test_neither_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aioxide.install()
        aioxide.uninstall()
        aioxide.EventLoopPolicy()


def test_importing_the_package_does_not_warn():
    code = "import aioxide; aioxide.install(); aioxide.uninstall(); aioxide.EventLoopPolicy"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_every_entry_point_makes_our_loops(installed):
    ours = aioxide.EventLoop
    assert kind_of_new_loop(asyncio.new_event_loop) is ours
    assert kind_of_new_loop(imported_before) is ours
    assert kind_of_new_loop(asyncio.get_event_loop_policy().new_event_loop) is ours
    assert asyncio.run(kind_of_loop()) is ours
    assert run_imported_before(kind_of_loop()) is ours
    assert isinstance(asyncio.get_event_loop_policy(), aioxide.EventLoopPolicy)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner is new in 3.11")
def test_asyncios_runner_makes_our_loops(installed):
    with asyncio.Runner() as runner:
        assert runner.run(kind_of_loop()) is aioxide.EventLoop
    assert isinstance(runner, asyncio.Runner)
    assert isinstance(aioxide.Runner(), asyncio.Runner)


def test_resetting_the_policy_keeps_our_loops(installed):
    asyncio.set_event_loop_policy(None)  # as test suites do when they tear down
    assert asyncio.run(kind_of_loop()) is aioxide.EventLoop
    assert kind_of_new_loop(asyncio.new_event_loop) is aioxide.EventLoop


def test_a_loop_factory_of_the_users_is_honoured(installed):
    stock = asyncio.SelectorEventLoop
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=stock) as runner:
            assert runner.run(kind_of_loop()) is stock
    if sys.version_info >= (3, 12):
        assert asyncio.run(kind_of_loop(), loop_factory=stock) is stock
    assert kind_of_new_loop(stock) is stock


def test_a_policy_of_the_users_is_honoured_until_the_next_install():
    class Loop(asyncio.SelectorEventLoop):
        pass

    class Policy(asyncio.DefaultEventLoopPolicy):
        _loop_factory = Loop

    aioxide.install()
    try:
        policy = Policy()
        asyncio.set_event_loop_policy(policy)
        assert asyncio.run(kind_of_loop()) is Loop
        aioxide.uninstall()
        assert asyncio.get_event_loop_policy() is policy
        aioxide.install()
        assert asyncio.run(kind_of_loop()) is aioxide.EventLoop
        aioxide.uninstall()
        assert asyncio.get_event_loop_policy() is policy
    finally:
        aioxide.uninstall()
        asyncio.set_event_loop_policy(None)


def test_isolated_test_cases_run_on_our_loop(installed):
    seen = []

    class Case(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self):
            seen.append(await kind_of_loop())

        async def test(self):
            seen.append(await kind_of_loop())

    result = unittest.TestResult()
    Case("test").run(result)
    assert result.wasSuccessful(), result.errors
    assert seen == [aioxide.EventLoop] * 2


def test_pytest_asyncio_runs_on_our_loop(tmp_path):
    pytest.importorskip("pytest_asyncio")
    (tmp_path / "conftest.py").write_text("import aioxide\naioxide.install()\n")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import asyncio, aioxide\n"
        "async def test_it():\n"
        "    assert type(asyncio.get_running_loop()) is aioxide.EventLoop\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_the_policy_alone_is_enough():
    asyncio.set_event_loop_policy(aioxide.EventLoopPolicy())
    try:
        assert asyncio.run(kind_of_loop()) is aioxide.EventLoop
    finally:
        asyncio.set_event_loop_policy(None)
