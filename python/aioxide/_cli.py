"""`python -m aioxide`: run a program on native loops as `python` would run it.

Counterpart: the interpreter's own main (`Modules/main.c`) and `runpy`. The program gets a fresh
`__main__` module, its `sys.argv` and `sys.path[0]`; what it raises leaves through the interpreter's
own exit, so exit codes, `SystemExit`, Ctrl-C (death by SIGINT), threads and `atexit` need no code
here. Only the traceback is touched: our frames below the program's are taken out of it.

`runpy.run_path` and `run_module` would be shorter, but they restore `__main__` when the program's
top level ends, while its threads, `atexit` functions and pools still pickle by it.

What the rest needs is imported up here: later `sys.path[0]` is the program's, and a `code.py` of
its own must not become a part of ours.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import importlib.util
import io
import linecache
import os
import pkgutil
import sys
import textwrap
from collections.abc import Callable
from types import CodeType, ModuleType, TracebackType
from typing import NamedTuple, NoReturn

from . import __version__
from ._install import install
from ._policy import unsupported

__all__ = ["main"]

USAGE = """\
usage: python -m aioxide [option] [program] [argument ...]

Run a Python program with aioxide installed: its asyncio loops are native ones.
The program sees the sys.argv, __main__, tracebacks and exit status that it
would see under `python`.

program, one of:
  script.py        a file, or a directory or zip file with a __main__.py
  -m module        a module or package, looked up like `python -m module`
  -c code          the code given as a string
  -                the code read from standard input
  nothing          a REPL in which `await` works at the top level

options:
  -h, --help       show this text
  -V, --version    show the versions of aioxide and Python

What follows the program goes to it unread. Options of the interpreter stand
before -m:  python -X dev -m aioxide script.py

exit status: the program's; 2 if there is no such program or option, or no
native loop on this platform.
"""


class _Program(NamedTuple):
    """What to run, ready to run."""

    code: Callable[[], CodeType]
    #: What its `__main__` starts with.
    namespace: dict[str, object]
    #: `sys.argv[0]` and `sys.path[0]`; no path where Python would not add one.
    argv0: str
    path0: str | None
    #: Under `python` this runs by `runpy`, whose frames the traceback shows.
    by_runpy: bool = False


def main() -> None:
    """Do what `sys.argv` says. Raises what the program raises, or SystemExit."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return
    if arguments and arguments[0] in ("-V", "--version"):
        implementation = sys.implementation.name
        print(f"aioxide {__version__} ({implementation} {'.'.join(map(str, sys.version_info[:3]))})")
        return
    if reason := unsupported():
        _refuse(reason, prefix=False)
    if not _is_path0_suppressed() and sys.path[:1] in ([""], [_working_directory()]):
        del sys.path[0]  # what `-m aioxide` put there; the program gets its own
    install()
    by_runpy = False
    try:
        program = _find_program(arguments)
        if program is None:
            from . import _repl  # sets up readline, which no other program wants

            raise SystemExit(_repl.interact(_become_main("", [], "", {})))
        by_runpy = program.by_runpy
        module = _become_main(program.argv0, arguments, program.path0, program.namespace)
        _run(program.code(), vars(module))
    except SystemExit:
        raise
    except BaseException:
        _hide_our_frames(by_runpy)
        raise


def _run(code: CodeType, namespace: dict[str, object]) -> None:
    exec(code, namespace)


def _refuse(line: str, *, prefix: bool = True) -> NoReturn:
    print(f"aioxide: {line}" if prefix else line, file=sys.stderr)
    raise SystemExit(2)


# --- what to run ---------------------------------------------------------------------------------


def _find_program(arguments: list[str]) -> _Program | None:
    """Read the command line and drop from it what stands before the program's arguments."""
    if arguments[:1] == ["--"]:
        del arguments[0]
    elif arguments and arguments[0].startswith("-") and arguments[0] != "-":
        return _from_option(arguments)
    if not arguments:
        return None
    target = arguments.pop(0)
    if target == "-":
        return None if sys.stdin.isatty() else _from_stdin()
    return _from_path(target)


def _from_option(arguments: list[str]) -> _Program:
    option, attached = arguments[0][:2], arguments[0][2:]
    if option not in ("-c", "-m"):
        _refuse(
            f"unknown option {arguments[0]}; try --help "
            "(interpreter options stand before -m: python -X dev -m aioxide ...)"
        )
    del arguments[0]
    if not attached and not arguments:
        _refuse(f"argument expected for the {option} option; try --help")
    operand = attached or arguments.pop(0)
    return _from_string(operand) if option == "-c" else _from_module(operand, arguments)


def _from_string(source: str) -> _Program:
    filename = "<string>"
    if sys.version_info >= (3, 14):
        source = textwrap.dedent(source)

    def code() -> CodeType:
        if sys.version_info >= (3, 13):  # tracebacks show the lines of -c code
            lines = source.splitlines(keepends=True)
            linecache.cache[filename] = (len(source), None, lines, filename)
        return compile(source, filename, "exec", dont_inherit=True)

    namespace: dict[str, object] = {"__loader__": importlib.machinery.BuiltinImporter}
    return _Program(code, namespace, "-c", "")


def _from_stdin() -> _Program:
    namespace: dict[str, object] = {
        "__loader__": importlib.machinery.BuiltinImporter,
        "__file__": "<stdin>",
        "__cached__": None,
    }

    def code() -> CodeType:
        source = sys.stdin.buffer.read()
        return compile(source, "<stdin>", "exec", dont_inherit=True)

    return _Program(code, namespace, "-", "")


def _from_path(path: str) -> _Program:
    if pkgutil.get_importer(path) is not None:
        return _from_container(path)
    absolute = os.path.join(_working_directory(), path)
    try:
        with io.open_code(absolute) as file:
            content = file.read()
    except OSError as error:
        _refuse(f"can't open file {absolute!r}: [Errno {error.errno}] {error.strerror}")

    def code() -> CodeType:
        compiled = pkgutil.read_code(io.BytesIO(content))  # of a .pyc; else None
        return compiled or compile(content, absolute, "exec", dont_inherit=True)

    namespace: dict[str, object] = {
        "__loader__": importlib.machinery.SourceFileLoader("__main__", absolute),
        "__file__": absolute,
        "__cached__": None,
    }
    # Modules are looked for beside the file itself, not beside a link to it.
    return _Program(code, namespace, path, os.path.dirname(os.path.realpath(absolute)))


def _from_container(path: str) -> _Program:
    """A directory or zip file with a `__main__`, which goes to `sys.path[0]` whatever -P says."""
    absolute = os.path.join(_working_directory(), path)
    sys.path.insert(0, absolute)
    spec = importlib.machinery.PathFinder.find_spec("__main__", [absolute])
    if spec is None or spec.loader is None:
        _refuse(f"can't find '__main__' module in {absolute!r}")
    code, namespace = _of_spec(spec)
    return _Program(code, namespace, path, None, by_runpy=True)


def _from_module(name: str, arguments: list[str]) -> _Program:
    # As under `python -m`: parent packages are imported with these arguments and this path.
    sys.argv[:] = ["-m", *arguments]
    if not _is_path0_suppressed():
        sys.path.insert(0, _working_directory())
    spec = _find_module(name)
    if spec is not None and spec.submodule_search_locations is not None:
        name += ".__main__"
        spec = _find_module(name)
    if spec is None or spec.loader is None:
        _refuse(f"no module named {name}")
    code, namespace = _of_spec(spec)
    return _Program(code, namespace, spec.origin or name, None, by_runpy=True)


def _find_module(name: str) -> importlib.machinery.ModuleSpec | None:
    parents = name.rpartition(".")[0]
    if name.startswith("."):
        _refuse(f"relative module names are not supported: {name}")
    try:
        if parents:
            __import__(parents)  # not by find_spec(): its frames would be in a traceback
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            _refuse(f"no module named {name}")
        raise
    except ValueError:  # a module without a spec, such as `__main__`
        return None


def _of_spec(
    spec: importlib.machinery.ModuleSpec,
) -> tuple[Callable[[], CodeType], dict[str, object]]:
    def code() -> CodeType:
        found = spec.loader.get_code(spec.name)  # type: ignore[union-attr]
        if found is None:
            _refuse(f"no code object available for {spec.name}")
        assert isinstance(found, CodeType)
        return found

    namespace: dict[str, object] = {
        "__spec__": spec,
        "__loader__": spec.loader,
        "__file__": spec.origin,
        "__cached__": spec.cached,
        "__package__": spec.parent,
    }
    return code, namespace


# --- what the program sees -----------------------------------------------------------------------


def _become_main(argv0: str, arguments: list[str], path0: str | None, namespace: dict[str, object]) -> ModuleType:
    """Put the program in the place of `python -m aioxide`; returns its `__main__`."""
    sys.argv[:] = [argv0, *arguments]
    if path0 is not None and not _is_path0_suppressed():
        sys.path.insert(0, path0)
    module = ModuleType("__main__")
    if sys.version_info < (3, 14):
        module.__annotations__ = {}
    vars(module).update(namespace, __builtins__=builtins)
    sys.modules["__main__"] = module
    return module


def _is_path0_suppressed() -> bool:
    """True under -P, PYTHONSAFEPATH or -I: Python puts nothing before the search path."""
    return bool(getattr(sys.flags, "safe_path", False) or sys.flags.isolated)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""


# --- what the program's reader sees --------------------------------------------------------------


def _hide_our_frames(by_runpy: bool) -> None:
    """Let the traceback that the interpreter is about to print begin with the program.

    The interpreter adds our frames while the exception leaves, so they can only be taken out in
    the hook that it calls at the end. The program's own hook is put back before that is called.
    """
    shown_by = getattr(sys, "excepthook", None)
    if shown_by is None:
        return

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = shown_by
        trace = _of_program(trace, by_runpy)
        error.__traceback__ = trace
        sys.last_traceback = trace  # for `python -i` and pdb.pm()
        try:
            shown_by(kind, error, trace)
        except SystemExit:
            raise
        except BaseException as second:
            # What the interpreter does, without the line of this call.
            print("Error in sys.excepthook:", file=sys.stderr)
            below = second.__traceback__ and second.__traceback__.tb_next
            sys.__excepthook__(type(second), second.with_traceback(below), below)
            print("\nOriginal exception was:", file=sys.stderr)
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = excepthook


#: Ours, and what reads a module's code for us.
_NOT_OF_PROGRAM = (__name__, "importlib._bootstrap", "importlib._bootstrap_external", "zipimport")


def _of_program(trace: TracebackType | None, by_runpy: bool) -> TracebackType | None:
    """The part of a traceback that `python` itself would show."""
    kept: list[TracebackType] = []
    while trace is not None and trace.tb_frame.f_code is not main.__code__:
        if by_runpy and trace.tb_frame.f_globals.get("__name__") == "runpy":
            kept.append(trace)
        trace = trace.tb_next
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _NOT_OF_PROGRAM:
        trace = trace.tb_next
    for frame in reversed(kept):
        frame.tb_next = trace
        trace = frame
    return trace
