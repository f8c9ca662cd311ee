"""What Python 3.14 and 3.15 bring to asyncio, on native loops: call graphs, tasks by thread, `TaskGroup.cancel`, and that
nothing here is deprecated. The captured contexts of transports are in `test_transport_contexts.py`."""

import asyncio
import io
import re
import socket
import subprocess
import sys
import textwrap
import threading
import warnings

import aioxide
import pytest
from differential import LOOPS, same
from peers import turns

pytestmark = pytest.mark.usefixtures("no_leaks")

since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="of Python 3.14")
since_3_15 = pytest.mark.skipif(sys.version_info < (3, 15), reason="of Python 3.15")


# --- call graphs -----------------------------------------------------------------------------------------------------


def plain(text):
    """A call graph, without addresses and places of the loop's own code."""
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    text = re.sub(r"Task-\d+", "Task-N", text)
    lines = [line for line in text.splitlines() if not re.search(r"/(asyncio|aioxide)/|<native", line)]
    return [re.sub(r"'/\S*/", "'", line) for line in lines]


async def leaf(event):
    await event.wait()


async def middle(event):
    await leaf(event)


async def in_gather(event):
    await asyncio.gather(middle(event), middle(event))


async def in_nested_gather(event):
    await asyncio.gather(in_gather(event))


async def in_wait(event):
    await asyncio.wait([asyncio.create_task(middle(event), name="waited")])


async def in_group(event):
    async with asyncio.TaskGroup() as group:
        group.create_task(middle(event), name="one")
        group.create_task(middle(event), name="two")


async def in_shield(event):
    await asyncio.shield(asyncio.create_task(middle(event), name="shielded"))


async def in_wait_for(event):
    await asyncio.wait_for(middle(event), 10)


async def in_timeout(event):
    async with asyncio.timeout(10):
        await middle(event)


async def in_as_completed(event):
    for one in asyncio.as_completed([asyncio.create_task(middle(event), name="next")]):
        await one


async def in_task(event):
    await asyncio.create_task(middle(event), name="child")


async def of_two(event):
    task = asyncio.create_task(middle(event), name="shared")

    async def waits():
        await task

    await asyncio.gather(waits(), waits())


async def in_generator(event):
    async def generator():
        await middle(event)
        yield

    async for _ in generator():
        pass


WAITS = [
    in_gather, in_nested_gather, in_wait, in_group, in_shield, in_wait_for, in_timeout, in_as_completed, in_task, of_two,
    in_generator, middle, leaf,
]  # fmt: skip


@since_3_14
@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("eager", [False, True])
def test_the_call_graph_of_each_task(wait, eager):
    async def scenario():
        loop = asyncio.get_running_loop()
        if eager:
            loop.set_task_factory(asyncio.eager_task_factory)
        event = asyncio.Event()
        task = asyncio.create_task(wait(event), name="root")
        await turns(10)
        graphs = [plain(asyncio.format_call_graph(one)) for one in asyncio.all_tasks()]
        printed = io.StringIO()
        asyncio.print_call_graph(task, file=printed)
        graph = asyncio.capture_call_graph(task)
        assert graph.future is task and isinstance(graph, asyncio.FutureCallGraph)
        limited = [plain(asyncio.format_call_graph(task, limit=limit)) for limit in (1, -1, 0)]
        event.set()
        await task
        loop.set_task_factory(None)
        after = asyncio.capture_call_graph(task)
        return sorted(graphs), plain(printed.getvalue()), limited, (after.call_stack, after.awaited_by)

    graphs, *_ = same(scenario)
    assert len(graphs) >= 2


@since_3_14
def test_the_call_graph_of_the_one_who_asks():
    def ask(depth):
        return plain(asyncio.format_call_graph(depth=depth))

    async def inner():
        return ask(1), ask(2), asyncio.capture_call_graph().future is asyncio.current_task()

    async def outer():
        return await inner()

    async def scenario():
        task = asyncio.create_task(outer(), name="asks")
        asked = await asyncio.gather(task)
        loop = asyncio.get_running_loop()
        box = []
        loop.call_soon(lambda: box.append(asyncio.capture_call_graph()))
        await turns(5)
        return asked, box

    same(scenario)


@since_3_14
@pytest.mark.parametrize("kind", ["sock_recv", "sock_accept", "executor", "future", "connection", "sleep"])
def test_the_call_graph_of_a_wait_for_the_loop(kind):
    async def scenario():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        server = socket.create_server(("127.0.0.1", 0))
        for sock in (here, there, server):
            sock.setblocking(False)
        over, future = threading.Event(), loop.create_future()

        async def job():
            match kind:
                case "sock_recv":
                    await loop.sock_recv(here, 1)
                case "sock_accept":
                    connection, _ = await loop.sock_accept(server)
                    connection.close()
                case "executor":
                    await loop.run_in_executor(None, over.wait, 10)
                case "future":
                    await future
                case "connection":
                    reader, writer = await asyncio.open_connection(sock=socket.create_connection(server.getsockname()))
                    try:
                        await reader.read(1)
                    finally:
                        writer.close()
                case "sleep":
                    await asyncio.sleep(60)

        async def parent():
            await asyncio.gather(job())

        task = asyncio.create_task(parent(), name="parent")
        await asyncio.sleep(0.02)
        children = [one for one in asyncio.all_tasks() if one.get_coro().__name__ == "job"]
        graph = plain(asyncio.format_call_graph(children[0]))
        over.set()
        task.cancel()
        await asyncio.wait([task])
        await turns(5)
        for sock in (here, there, server):
            sock.close()
        return graph

    graph = same(scenario)
    assert any("job" in line for line in graph) and any("parent" in line for line in graph)


@since_3_14
def test_frames_of_a_native_coroutine_are_named():
    """asyncio's `sock_recv` is a Python frame; the native one says who it is."""
    loop = aioxide.new_event_loop()

    async def main():
        here, there = socket.socketpair()
        here.setblocking(False)
        task = asyncio.create_task(receive(here))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        text = asyncio.format_call_graph(task)
        task.cancel()
        await asyncio.wait([task])
        here.close()
        there.close()
        return text

    async def receive(sock):
        return await loop.sock_recv(sock, 1)

    text = loop.run_until_complete(main())
    loop.close()
    assert "receive" in text


# --- tasks by thread -------------------------------------------------------------------------------------------------


@since_3_14
def test_all_tasks_of_loops_in_several_threads():
    """Each loop's tasks are seen from its own thread, from the others, and from one without a loop."""

    def observe_threads(make):
        found = []
        started, over = threading.Barrier(4), threading.Event()
        loops = [make() for _ in range(3)]

        def body(number):
            loop = loops[number]

            async def main():
                tasks = [asyncio.create_task(asyncio.sleep(60), name=f"{number}.{one}") for one in range(3)]
                await asyncio.sleep(0.01)
                await asyncio.to_thread(started.wait, 20)
                own = sorted(task.get_name() for task in asyncio.all_tasks() if "." in task.get_name())
                other = loops[(number + 1) % 3]
                others = sorted(task.get_name() for task in asyncio.all_tasks(other) if "." in task.get_name())
                found.append((number, own, others))
                await asyncio.to_thread(over.wait, 20)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await loop.shutdown_default_executor()

            loop.run_until_complete(main())
            loop.close()

        threads = [threading.Thread(target=body, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        started.wait(20)
        while len(found) < 3:
            pass
        from_here = [
            sorted(task.get_name() for task in asyncio.all_tasks(loop) if "." in task.get_name()) for loop in loops
        ]
        over.set()
        for thread in threads:
            thread.join(20)
        gone = [asyncio.all_tasks(loop) for loop in loops]
        return sorted(found), from_here, gone

    seen = {name: observe_threads(make) for name, make in LOOPS.items()}
    assert seen["aioxide"] == seen["asyncio"]
    assert seen["aioxide"][1][2] == ["2.0", "2.1", "2.2"]


@since_3_14
def test_all_tasks_outlive_the_thread_that_made_them():
    def observe(make):
        loop = make()
        tasks = []

        def body():
            async def main():
                tasks.append(asyncio.create_task(asyncio.sleep(60), name="left"))
                await asyncio.sleep(0)

            loop.run_until_complete(main())

        thread = threading.Thread(target=body)
        thread.start()
        thread.join(20)
        seen = [task.get_name() for task in asyncio.all_tasks(loop)]
        tasks.pop().cancel()
        loop.run_until_complete(asyncio.sleep(0))
        seen.append(len(asyncio.all_tasks(loop)))
        loop.close()
        return seen

    assert observe(LOOPS["aioxide"]) == observe(LOOPS["asyncio"]) == ["left", 0]


# --- TaskGroup.cancel ------------------------------------------------------------------------------------------------

CANCELS = ["outside", "inside", "by a child", "before", "twice", "after", "nested", "with an error"]


@since_3_15
@pytest.mark.parametrize("moment", CANCELS)
def test_a_task_group_is_cancelled(moment):
    async def scenario():
        seen, tasks = [], []

        async def child(number):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append(("cancelled", number))
                raise
            finally:
                if moment == "with an error" and number == 1:
                    raise ValueError("of a child")

        async def cancels(group):
            await asyncio.sleep(0)
            group.cancel()
            await asyncio.sleep(60)

        try:
            async with asyncio.TaskGroup() as group:
                if moment == "before":
                    group.cancel()
                tasks += [group.create_task(child(number)) for number in range(2)]
                if moment == "outside":
                    asyncio.get_running_loop().call_later(0.01, group.cancel)
                elif moment == "by a child":
                    group.create_task(cancels(group))
                elif moment == "nested":
                    async with asyncio.TaskGroup() as inner:
                        tasks.append(inner.create_task(child(2)))
                        await asyncio.sleep(0)
                        group.cancel()
                await asyncio.sleep(0)
                if moment in ("inside", "twice", "with an error"):
                    group.cancel()
                if moment == "twice":
                    group.cancel()
                if moment == "after":
                    for task in tasks:
                        task.cancel()
                seen.append("end of body")
                await asyncio.sleep(0)
                seen.append("later")
        except BaseException as error:
            seen.append((type(error).__name__, [str(one) for one in getattr(error, "exceptions", ())]))
        group.cancel()
        await turns(5)
        # A group cancels in the order of a set.
        children = sorted(one for one in seen if one[0] == "cancelled")
        others = [one for one in seen if one[0] != "cancelled"]
        return children, others, [task.cancelled() for task in tasks], asyncio.current_task().cancelling()

    same(scenario)


# --- nothing deprecated ----------------------------------------------------------------------------------------------

#: Ways of use, each with a word that it prints.
USES = {
    "import": "import aioxide; print('well')",
    "run": "import aioxide\nasync def main(): print('well')\naioxide.run(main())",
    "run, debug mode": "import aioxide\nasync def main(): print('well')\naioxide.run(main(), debug=True)",
    "Runner": """
        import aioxide
        async def main(): print('well')
        with aioxide.Runner() as runner:
            runner.run(main())
    """,
    "loop_factory": """
        import sys, asyncio, aioxide
        async def main(): print('well')
        if sys.version_info >= (3, 12):
            asyncio.run(main(), loop_factory=aioxide.new_event_loop)
        else:
            aioxide.run(main())
    """,
    "new_event_loop": """
        import asyncio, aioxide
        async def main():
            await asyncio.gather(asyncio.sleep(0), asyncio.to_thread(int))
            server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            server.close()
        loop = aioxide.new_event_loop()
        loop.set_debug(True)
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        print('well')
    """,
    "callback checks": """
        import aioxide
        loop = aioxide.new_event_loop()
        loop.set_debug(True)
        loop.call_soon(print, "well")
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
    """,
    "install": """
        import asyncio, aioxide
        aioxide.install()
        async def main():
            assert isinstance(asyncio.get_running_loop(), aioxide.EventLoop)
            print('well')
        asyncio.run(main())
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        assert asyncio.get_event_loop() is loop
        loop.close()
        aioxide.uninstall()
    """,
    "policy class": """
        import aioxide
        policy = aioxide.EventLoopPolicy()
        loop = policy.new_event_loop()
        policy.set_event_loop(loop)
        assert policy.get_event_loop() is loop
        loop.close()
        print('well')
    """,
}


def ours_as_error(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-W", "error::PendingDeprecationWarning", *arguments],
        capture_output=True, text=True, timeout=50, **options,
    )  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_no_use_warns_of_deprecation(use):
    done = ours_as_error("-c", textwrap.dedent(USES[use]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


PROGRAM = """
import asyncio, aioxide
async def main():
    assert isinstance(asyncio.get_running_loop(), aioxide.EventLoop)
    print("well")
asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["file", "module", "standard input of the REPL"])
def test_the_command_line_warns_of_no_deprecation(way, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    match way:
        case "file":
            done = ours_as_error("-m", "aioxide", str(tmp_path / "program.py"))
        case "module":
            done = ours_as_error("-m", "aioxide", "-m", "program", cwd=tmp_path)
        case _:
            done = ours_as_error("-m", "aioxide", input="print('well')\n")
    assert done.returncode == 0 and "well" in done.stdout, done.stderr
    assert "Warning" not in done.stderr


def test_the_policy_of_install_is_the_only_thing_that_needs_one():
    """Whoever sets our policy by the deprecated function is warned by asyncio, once, for his own line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.set_event_loop_policy(aioxide.EventLoopPolicy())
        asyncio.set_event_loop_policy(None)
    assert {warning.filename for warning in caught} <= {__file__}
    assert len(caught) == (2 if sys.version_info >= (3, 14) else 0)
