"""`python -m aioxide PROGRAM` is to PROGRAM what `python PROGRAM` is, but for the loop."""

import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import zipfile

import pytest

OURS = [sys.executable, "-m", "aioxide"]
STOCK = [sys.executable]

LOOP_NAME = """
import asyncio
async def main():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
"""


def run(command, *, stdin="", cwd=None, env=None):
    return subprocess.run(
        list(map(str, command)),
        input=stdin,
        cwd=cwd,
        env=dict(os.environ, **(env or {})),
        capture_output=True,
        text=True,
        timeout=60,
    )


def outcome(command, **kwargs):
    done = run(command, **kwargs)
    without_addresses = re.sub(r"0x[0-9a-f]+", "0x", done.stdout + "\n--\n" + done.stderr)
    return done.returncode, without_addresses


def assert_same_as_python(*arguments, **kwargs):
    expected = outcome([*STOCK, *arguments], **kwargs)
    assert outcome([*OURS, *arguments], **kwargs) == expected
    return expected


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


# --- what the program sees -----------------------------------------------------------------------

SHOW_SURROUNDINGS = """
import sys
module = sys.modules["__main__"]
print(module.__dict__ is globals(), __name__, sys.argv, sys.path[0])
for name in sorted(vars(module)):
    if name not in ("module", "sys"):
        print(name, repr(vars(module)[name])[:200])
"""


@pytest.mark.parametrize("arguments", [[], ["a", "-m", "--help", "-c"]])
def test_a_script_sees_what_it_sees_under_python(write, tmp_path, arguments):
    write("app.py", SHOW_SURROUNDINGS)
    assert_same_as_python("app.py", *arguments, cwd=tmp_path)
    assert_same_as_python(tmp_path / "app.py", *arguments)


def test_a_linked_script_imports_from_beside_its_target(write, tmp_path):
    write("real/neighbour.py", "print('imported')")
    (tmp_path / "link.py").symlink_to(write("real/app.py", "import neighbour"))
    code, text = assert_same_as_python("link.py", cwd=tmp_path)
    assert (code, text.split()[0]) == (0, "imported")


def test_a_module_sees_what_it_sees_under_python(write, tmp_path):
    write("pkg/__init__.py", "import sys; print(sys.argv, sys.path[0])")
    write("pkg/__main__.py", SHOW_SURROUNDINGS)
    write("pkg/sub.py", SHOW_SURROUNDINGS)
    assert_same_as_python("-m", "pkg", "a", "-x", cwd=tmp_path)
    assert_same_as_python("-mpkg.sub", "a", cwd=tmp_path)


def test_code_sees_what_it_sees_under_python():
    assert_same_as_python("-c", SHOW_SURROUNDINGS, "a", "-c")
    assert_same_as_python("-cprint(1)")


def test_a_program_on_stdin_sees_what_it_sees_under_python():
    assert_same_as_python("-", "a", stdin=SHOW_SURROUNDINGS)


def test_a_directory_and_a_zip_file_run_their_main(write, tmp_path):
    source = write("app/__main__.py", SHOW_SURROUNDINGS)
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.write(source, "__main__.py")
    assert_same_as_python("app", "a", cwd=tmp_path)
    code, _ = assert_same_as_python("app.zip", "a", cwd=tmp_path)
    assert code == 0


def test_a_compiled_file_runs(write, tmp_path):
    import py_compile

    py_compile.compile(str(write("app.py", "print('compiled')")), cfile=str(tmp_path / "app.pyc"))
    code, text = outcome([*OURS, tmp_path / "app.pyc"])
    assert (code, text.split()[0]) == (0, "compiled")


def test_isolated_mode_adds_no_path(write):
    path = write("app.py", "import sys; print(sys.path[0])")
    expected = outcome([sys.executable, "-I", path])
    probe = run([sys.executable, "-I", "-c", "import aioxide"])
    if probe.returncode:
        pytest.skip("aioxide is not importable with -I here")
    assert outcome([sys.executable, "-I", "-m", "aioxide", path]) == expected


@pytest.mark.parametrize("how", ["script", "-c", "-"])
def test_the_program_runs_on_our_loop(write, how):
    source = LOOP_NAME + "print(asyncio.run(main()))\n"
    target = {"script": [write("app.py", source)], "-c": ["-c", source], "-": ["-"]}[how]
    assert run([*OURS, *target], stdin=source).stdout == "aioxide\n"


# --- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit()",
        "sys.exit(3)",
        "sys.exit('a message')",
        "sys.exit([1])",
        "1 / 0",
        "raise KeyboardInterrupt",
        "def f():\n    raise ValueError('inner')\ntry:\n    f()\nexcept ValueError:\n    1 / 0",
        "def f(:",
        "import atexit; atexit.register(print, 'at exit'); 1 / 0",
        "import threading; threading.Timer(.05, print, ['thread']).start(); sys.exit(4)",
        "def hook(*args):\n    print('hook', args[2].tb_frame.f_code.co_name)\nsys.excepthook = hook\n1 / 0",
        "def hook(*args):\n    raise OSError('in hook')\nsys.excepthook = hook\n1 / 0",
        "def hook(*args):\n    sys.exit(7)\nsys.excepthook = hook\n1 / 0",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    ],
)
def test_endings_are_those_of_python(write, tmp_path, ending):
    source = "import sys\n" + ending + "\n"
    write("app.py", source)
    assert_same_as_python("app.py", cwd=tmp_path)
    if ending != "def f(:":  # runpy's own frames of compiling it are not ours to have
        assert_same_as_python("-m", "app", cwd=tmp_path)
    assert_same_as_python("-c", source)
    assert_same_as_python("-", stdin=source)


def test_an_exception_in_a_task_shows_the_program_first(write):
    path = write("app.py", "import asyncio\nasync def main():\n    1 / 0\nasyncio.run(main())\n")
    done = run([*OURS, path])
    assert done.returncode == 1
    frames = re.findall(r'File "(.*?)"', done.stderr)
    assert frames[0] == frames[-1] == str(path)
    assert not any(name.endswith(("_cli.py", "__main__.py")) for name in frames)


def test_ctrl_c_runs_finally_blocks_and_ends_by_the_signal(write):
    path = write(
        "app.py",
        """
        import asyncio, os, signal
        async def main():
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(60)
            finally:
                print("cleaned up", flush=True)
        asyncio.run(main())
        """,
    )
    done = run([*OURS, path])
    assert done.stdout == "cleaned up\n"
    assert done.returncode == -signal.SIGINT
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert done.stderr.startswith("Traceback (most recent call last):\n")


# --- pickling by __main__ ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("how", ["script", "-m"])
def test_child_processes_find_functions_of_main(write, tmp_path, method, how):
    write(
        "app.py",
        f"""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        def double(x):
            return 2 * x
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                print(pool.submit(double, 21).result())
        """,
    )
    target = ["app.py"] if how == "script" else ["-m", "app"]
    done = run([*OURS, *target], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_main_is_still_there_at_exit():
    source = """
import atexit, pickle
def function(): pass
@atexit.register
def last(): print(pickle.loads(pickle.dumps(function)) is function)
"""
    assert run([*OURS, "-c", source]).stdout == "True\n"


# --- bad input: one line, status 2 ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.py"], "can't open file '.*/nowhere.py': .Errno 2. No such file or directory"),
        (["empty"], "can't find '__main__' module in '.*/empty'"),
        (["-m", "no_such_module"], "no module named no_such_module"),
        (["-m", "json.nowhere"], "no module named json.nowhere"),
        (["-m", "no_such.module"], "no module named no_such.module"),
        (["-m", ".relative"], "relative module names are not supported: .relative"),
        (["-m"], "argument expected for the -m option.*"),
        (["-c"], "argument expected for the -c option.*"),
        (["-X", "dev"], "unknown option -X.*interpreter options stand before -m.*"),
        (["-i", "app.py"], "unknown option -i.*interpreter options stand before -m.*"),
        (["--fast"], "unknown option --fast.*"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(tmp_path, arguments, expected):
    (tmp_path / "empty").mkdir()
    done = run([*OURS, *arguments], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(f"aioxide: {expected}\n", done.stderr)


def test_a_module_that_fails_to_import_something_else_shows_why(write, tmp_path):
    write("pkg/__init__.py", "import no_such_module")
    write("pkg/__main__.py", "")
    done = run([*OURS, "-m", "pkg"], cwd=tmp_path)
    assert done.returncode == 1
    assert "No module named 'no_such_module'" in done.stderr
    assert "_cli.py" not in done.stderr


PRETEND = "import asyncio, runpy, sys, readline; sys.platform = 'plan9'; "
UNSUPPORTED = "aioxide supports Linux for now; this is plan9"


@pytest.mark.parametrize("arguments", [[], ["app.py"], ["-c", "pass"]])
def test_an_unsupported_platform_gets_one_line_and_status_2(arguments):
    pretend = PRETEND + "runpy.run_module('aioxide', run_name='__main__', alter_sys=True)"
    done = run([sys.executable, "-c", pretend, *arguments])
    assert (done.returncode, done.stdout, done.stderr) == (2, "", UNSUPPORTED + "\n")


def test_on_an_unsupported_platform_the_import_works_and_nothing_else():
    done = run(
        [
            sys.executable,
            "-c",
            PRETEND
            + textwrap.dedent("""
                import aioxide
                from aioxide import *
                async def main(): pass
                for make in (new_event_loop, EventLoop, Task, Future, Handle, install, Runner().get_loop):
                    try:
                        make()
                    except RuntimeError as error:
                        print(error)
            """),
        ]
    )
    assert done.stdout.splitlines() == [UNSUPPORTED] * 7, done.stderr


def test_help_and_version():
    done = run([*OURS, "--help"])
    assert done.returncode == 0 and done.stdout == run([*OURS, "-h"]).stdout
    assert done.stdout.startswith("usage: python -m aioxide") and "-m module" in done.stdout
    done = run([*OURS, "--version"])
    assert done.returncode == 0
    assert re.fullmatch(r"aioxide \d+\.\d+\.\d+\S* \(cpython 3\.\d+\.\d+\)\n", done.stdout)


# --- the REPL ------------------------------------------------------------------------------------


def repl(lines, **kwargs):
    return run(OURS, stdin=textwrap.dedent(lines), **kwargs)


def test_the_repl_awaits_on_our_loop():
    done = repl("""
        async def name():
            return type(asyncio.get_running_loop()).__module__.partition('.')[0]

        await asyncio.sleep(0, 'slept')
        await name()
        1 + 1
    """)
    assert done.returncode == 0
    for shown in ("'slept'", "'aioxide'", "2"):
        assert shown in done.stdout
    assert 'Use "await" directly' in done.stderr


def test_the_repl_shows_errors_and_goes_on():
    done = repl("1/0\nawait asyncio.wait_for(asyncio.sleep(9), .01)\ndef f(:\nprint('still', 'here')\n")
    assert done.returncode == 0 and "still here" in done.stdout
    for shown in ("ZeroDivisionError", "TimeoutError", "SyntaxError"):
        assert shown in done.stderr


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", 0),
        ("exit()", 0),
        ("exit(3)", 3),
        ("raise SystemExit(4)", 4),
        ("async def f(): raise SystemExit(5)\n\nawait f()", 5),
    ],
)
def test_the_repl_ends_with_the_status_asked_for(ending, status):
    done = repl(ending + "\n")
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_repl_statements_share_a_context_and_background_tasks_live():
    done = repl("""
        import contextvars
        var = contextvars.ContextVar('var', default='unset')
        task = asyncio.create_task(asyncio.sleep(0, 'background'))
        token = var.set('set')
        var.get()
        await task
    """)
    assert "'background'" in done.stdout
    if sys.version_info >= (3, 11):
        assert "'set'" in done.stdout


def test_the_repl_honours_pythonstartup(write):
    startup = write("startup.py", "marker = 'from startup'\n")
    done = repl("print(marker)\n", env={"PYTHONSTARTUP": str(startup)})
    assert "from startup" in done.stdout


def test_repl_functions_can_be_pickled():
    done = repl("""
        import pickle
        def function(): pass

        pickle.loads(pickle.dumps(function)) is function
    """)
    assert "True" in done.stdout, done.stderr


def test_ctrl_c_in_the_repl_cancels_what_is_awaited():
    master, slave = pty.openpty()
    process = subprocess.Popen(OURS, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    seen = b""

    def until(expected):
        nonlocal seen
        while expected not in seen:
            seen += os.read(master, 4096)
        seen = seen.partition(expected)[2]

    try:
        until(b"import asyncio")
        until(b">>> ")
        os.write(master, b"await asyncio.sleep(print('nap'+'ping') or 60)\r")
        until(b"napping")
        process.send_signal(signal.SIGINT)
        until(b"KeyboardInterrupt")
        until(b">>> ")
        os.write(master, b"'still' + ' alive'\r")
        until(b"still alive")
        os.write(master, b"exit(9)\r")
        assert process.wait(20) == 9
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_importing_the_package_patches_nothing():
    policy = run(
        [
            sys.executable,
            "-c",
            "import asyncio, aioxide\n" + LOOP_NAME + "print(asyncio.run(main()))",
        ]
    )
    assert policy.stdout == "asyncio\n", policy.stderr
