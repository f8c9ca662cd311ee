"""The gate of the architecture: what ARCHITECTURE.md says about direction and fences, checked.

    python tools/layout.py [--root DIR]     check the repository
    python tools/layout.py --selftest       plant each violation in a temporary tree: it must be found

Rules: dependencies point down the layers of each crate, and the core knows no Python; `unsafe` stays
inside the two fences; native objects keep their state in the types of `ffi::cell`; every Rust file opens
with `//!`; no `.unwrap()`, `todo!` or `unimplemented!` outside tests; no file above 600 lines without a
reason; the Python layer takes nothing from asyncio's own loops but what the table below allows.

Rust is read as tokens, not compiled: comments, strings and `#[cfg(test)]` items are blanked, `use`
trees expanded, `super` and `self` resolved. What a macro pastes together is not seen.

One line per finding, `path:line: message`; exit code 1 if there are any, 2 for wrong usage.
"""

import argparse
import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

#: Layers of each crate, the lowest first. Modules of one row do not use each other.
LAYERS = {
    "crates/python/src": [["ffi"], ["objects"], ["tasks"], ["io"], ["surface"]],
    "crates/core/src": [
        ["sync"],
        ["sys"],
        ["time", "buffer", "ready", "pool", "tls"],
        ["reactor"],
        ["kernel"],
        ["net"],
    ],
}

FENCES = ("crates/core/src/sys/", "crates/python/src/ffi/")

#: What a free-threaded interpreter would touch from two threads at once, and where something stands in its place.
CONFINED = {("std", "cell"), ("std", "rc"), ("core", "cell"), ("alloc", "rc")}
HAS_CELLS = "crates/python/src/"

MAX_LINES = 600
#: Longer files, each with the reason why it is one idea nevertheless: path -> reason.
LONG_FILES: dict[str, str] = {}

#: Modules of asyncio that are loops, and names that lead to their classes by another way.
LOOP_MODULES = ("base_events", "selector_events", "unix_events", "proactor_events")
LOOP_CLASSES = ("BaseEventLoop", "SelectorEventLoop", "Server")
#: What may be taken from there: name -> reason.
ALLOWED_OF_LOOPS = {
    "_run_until_complete_cb": "anyio recognises the root task by this very function",
    "_unset": "the default of create_datagram_endpoint's reuse_address in 3.10",
}
#: Whole modules, in one file each: (file, module) -> reason.
ALLOWED_MODULES = {
    ("python/aioxide/_install.py", "unix_events"): "the default policy is there; it gets our factory",
    ("python/aioxide/_processes.py", "unix_events"): "its can_use_pidfd is asked; its watchers are names to isinstance",
}
#: A function that only reads the code of what it is given: its arguments may name anything.
READS_CODE_ONLY = "stdlib_mentions"


class Finding(NamedTuple):
    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


# --- Rust as tokens --------------------------------------------------------------------------------

_OPAQUE = re.compile(
    r"""
      //[^\n]*
    | /\*
    | \b(?:b|c)?r(?P<hashes>\#*)".*?"(?P=hashes)
    | \b(?:b|c)?"(?:\\.|[^"\\])*"
    | "(?:\\.|[^"\\])*"
    | b?'(?:\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.)|[^'\\])'
    """,
    re.VERBOSE | re.DOTALL,
)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def code_of(source: str) -> str:
    """The source with comments and literals blanked; every offset and line stays where it is."""
    out: list[str] = []
    at = 0
    while found := _OPAQUE.search(source, at):
        end = found.end()
        if found[0] == "/*":
            end = _end_of_comment(source, found.start())
        out += source[at : found.start()], _blank(source[found.start() : end])
        at = end
    return "".join(out) + source[at:]


def _end_of_comment(source: str, start: int) -> int:
    """Block comments nest."""
    depth = 0
    for mark in re.finditer(r"/\*|\*/", source[start:]):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return start + mark.end()
    return len(source)


def _end_of_block(code: str, opening: int) -> int:
    depth = 0
    for mark in re.finditer(r"[{}]", code[opening:]):
        depth += 1 if mark[0] == "{" else -1
        if depth == 0:
            return opening + mark.end()
    return len(code)


def without_tests(code: str) -> str:
    """Blank every item under an exact `#[cfg(test)]` (or `#[test]`)."""
    while found := re.search(r"#\s*\[\s*(?:cfg\s*\(\s*test\s*\)|test)\s*\]", code):
        stop = re.compile(r"[{;]").search(code, found.end())
        if stop is None:
            end = len(code)
        else:
            end = stop.end() if stop[0] == ";" else _end_of_block(code, stop.start())
        code = code[: found.start()] + _blank(code[found.start() : end]) + code[end:]
    return code


def line_of(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _expand(tree: str) -> Iterator[list[str]]:
    """The paths of a `use` tree: `a::{b, c::d as e}` gives [a, b] and [a, c, d]."""
    head, brace, rest = tree.partition("{")
    prefix = _segments(head)
    if not brace:
        yield prefix
        return
    depth, start = 0, 0
    inner = rest[: rest.rfind("}")]
    for i, char in enumerate([*inner, ","]):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            if part := inner[start:i].strip():
                yield from (prefix + path for path in _expand(part))
            start = i + 1


def _segments(path: str) -> list[str]:
    path = re.split(r"\bas\b", path)[0]
    return [s for s in (p.strip() for p in path.split("::")) if s]


class RustFile:
    """A file of a crate's `src`: its code, and the paths it names."""

    def __init__(self, root: Path, crate: str, path: Path) -> None:
        self.name = path.relative_to(root).as_posix()
        self.source = path.read_text(encoding="utf-8")
        self.code = code_of(self.source)
        inside = path.relative_to(root / crate).with_suffix("").parts
        is_folder = inside[-1] in ("mod", "lib", "main")
        self.module = list(inside[:-1] if is_folder else inside)

    def finding(self, offset: int, message: str) -> Finding:
        return Finding(self.name, line_of(self.source, offset), message)

    def paths(self) -> Iterator[tuple[int, list[str]]]:
        """Every path that starts at the crate's root, as (offset, segments from the root)."""
        uses = list(re.finditer(r"\buse\s+([^;]+);", self.code))
        for use in uses:
            for path in _expand(use[1]):
                if (absolute := self._from_root(path, use.start())) is not None:
                    yield use.start(), absolute
        rest = list(self.code)
        for use in uses:
            rest[use.start() : use.end()] = " " * (use.end() - use.start())
        pattern = r"\b(?:crate|super|self)\b(?:\s*::\s*\w+)+"
        for found in re.finditer(pattern, "".join(rest)):
            absolute = self._from_root(_segments(found[0]), found.start())
            if absolute is not None:
                yield found.start(), absolute

    def _from_root(self, path: list[str], offset: int) -> list[str] | None:
        """None for a path into another crate."""
        if not path:
            return None
        if path[0] in ("crate", "$crate"):
            return path[1:]
        if path[0] not in ("super", "self"):
            return None
        here = self.module + self._inline_modules(offset)
        while path and path[0] in ("super", "self"):
            if path[0] == "super":
                here = here[:-1]
            path = path[1:]
        return here + path

    def _inline_modules(self, offset: int) -> list[str]:
        inside = []
        for found in re.finditer(r"\bmod\s+(\w+)\s*\{", self.code[:offset]):
            if _end_of_block(self.code, found.end() - 1) > offset:
                inside.append(found[1])
        return inside


# --- the rules -------------------------------------------------------------------------------------


def rust_files(root: Path) -> list[RustFile]:
    return [RustFile(root, crate, path) for crate in LAYERS for path in sorted((root / crate).rglob("*.rs"))]


def check_direction(files: list[RustFile]) -> Iterator[Finding]:
    for crate, rows in LAYERS.items():
        rank = {module: i for i, row in enumerate(rows) for module in row}
        mine = [f for f in files if f.name.startswith(crate + "/")]
        macros = {
            found[1]: f.module[0]
            for f in mine
            if f.module
            for found in re.finditer(r"macro_export\b[^{]*?macro_rules!\s*(\w+)", f.code)
        }
        for f in mine:
            for found in re.finditer(r"#\s*!?\[\s*path\b", f.code):
                yield f.finding(found.start(), "#[path] takes a module out of its layer")
            if not f.module:
                continue  # lib.rs: the table of contents, above all
            layer = f.module[0]
            if layer not in rank:
                yield Finding(f.name, 1, f"`{layer}` is no layer: add it to LAYERS in tools/layout.py")
                continue
            for offset, path in f.paths():
                if not path or path[0] in ("*", "self"):
                    yield f.finding(offset, "the crate's root names no layer: use the module itself")
                    continue
                target = macros.get(path[0], path[0])
                if target == layer or target not in rank:
                    continue
                if rank[target] == rank[layer]:
                    yield f.finding(offset, f"`{layer}` uses `{target}`, its neighbour in the same row")
                elif rank[target] > rank[layer]:
                    yield f.finding(offset, f"`{layer}` uses `{target}`, a layer above it")


def check_core_knows_no_python(root: Path, files: list[RustFile]) -> Iterator[Finding]:
    python = re.compile(r"\b(?:pyo3\w*|cpython|python3_sys|aioxide_python|PyObject)\b")
    for f in files:
        if f.name.startswith("crates/core/"):
            for found in python.finditer(f.code):
                yield f.finding(found.start(), f"the core knows no Python: `{found[0]}`")
    manifest = root / "crates/core/Cargo.toml"
    if not manifest.exists():
        return
    section = ""
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1):
        line = line.partition("#")[0].strip()
        if line.startswith("["):
            section = line
        if "dependencies" in section and (found := python.search(line.replace("-", "_"))):
            message = f"the core depends on no Python: `{found[0]}`"
            yield Finding(manifest.relative_to(root).as_posix(), number, message)


def check_unsafe(files: list[RustFile]) -> Iterator[Finding]:
    for f in files:
        if f.name.startswith(FENCES):
            continue
        for found in re.finditer(r"\bunsafe\b", f.code):
            yield f.finding(found.start(), f"unsafe outside the fences ({', '.join(FENCES)})")
        for found in re.finditer(r"\b(?:allow|expect)\s*\([^)]*\bunsafe_\w+", f.code):
            yield f.finding(found.start(), "the unsafe lint is not lifted outside the fences")


def check_cells(files: list[RustFile]) -> Iterator[Finding]:
    for f in files:
        if not f.name.startswith(HAS_CELLS) or f.name.startswith(FENCES):
            continue
        named = [(use.start(), path) for use in re.finditer(r"\buse\s+([^;]+);", f.code) for path in _expand(use[1])]
        named += [(found.start(), _segments(found[0])) for found in re.finditer(r"\b\w+\s*::\s*\w+", f.code)]
        for offset, path in named:
            if tuple(path[:2]) in CONFINED:
                yield f.finding(offset, f"`{'::'.join(path[:2])}` is for one thread: take it from `crate::ffi::cell`")


def check_headers(root: Path) -> Iterator[Finding]:
    for path in sorted((root / "crates").rglob("*.rs")):
        name = path.relative_to(root)
        is_built = any(part in ("target", "results") for part in name.parts)
        if not is_built and not path.read_text(encoding="utf-8").startswith("//!"):
            yield Finding(name.as_posix(), 1, "a Rust file opens with `//!`: its purpose in a line")


def check_panics(files: list[RustFile]) -> Iterator[Finding]:
    pattern = re.compile(r"\.\s*unwrap\s*\(\s*\)|\b(?:todo|unimplemented)\s*!")
    for f in files:
        for found in pattern.finditer(without_tests(f.code)):
            yield f.finding(found.start(), f'`{found[0]}` outside tests; say `expect("why")` or return')


def check_length(root: Path) -> Iterator[Finding]:
    seen = set()
    for folder in ("crates", "python", "tools", "tests", "benches", "examples", "fuzz"):
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.suffix not in (".rs", ".py", ".pyi") or "/target/" in name:
                continue
            lines = path.read_bytes().count(b"\n")
            if lines > MAX_LINES:
                seen.add(name)
                if name not in LONG_FILES:
                    yield Finding(name, MAX_LINES + 1, f"{lines} lines; above {MAX_LINES} it needs a reason")
    for name in sorted(LONG_FILES.keys() - seen):
        yield Finding(name, 1, "listed in LONG_FILES, but not that long (any more)")


def check_python_layer(root: Path) -> Iterator[Finding]:
    for path in sorted((root / "python/aioxide").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"), name)
        allowed = {module for file, module in ALLOWED_MODULES if file == name}
        for line, foreign in _foreign(tree, allowed):
            yield Finding(name, line, f"asyncio's own loops are no part of aioxide: `{foreign}`")


def _foreign(tree: ast.Module, allowed: set[str]) -> Iterator[tuple[int, str]]:
    """(line, name) of everything taken from asyncio's loop modules that no table allows."""
    aliases: set[str] = set()  # names bound to a loop module
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from _imported_names(node, aliases)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _is_loop_module(alias.name) and alias.asname:
                    aliases.add(alias.asname)
    read_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _dotted(node.func) == READS_CODE_ONLY
        for argument in node.args
        for inner in ast.walk(argument)
    }
    aliases -= allowed
    inner_parts = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Attribute, ast.Name)) or id(node) in inner_parts:
            continue  # only whole dotted names
        parts = _dotted(node).split(".")
        if id(node) in read_only or not _leads_to_a_loop(parts, aliases):
            continue
        if not ALLOWED_OF_LOOPS.keys() & set(parts):
            yield node.lineno, ".".join(parts)


def _imported_names(node: ast.ImportFrom, aliases: set[str]) -> Iterator[tuple[int, str]]:
    for alias in node.names:
        if _is_loop_module(node.module or "") and alias.name not in ALLOWED_OF_LOOPS:
            yield node.lineno, f"{node.module}.{alias.name}"
        elif node.module == "asyncio" and alias.name in LOOP_MODULES:
            aliases.add(alias.asname or alias.name)
        elif node.module == "asyncio" and alias.name in LOOP_CLASSES:
            yield node.lineno, f"asyncio.{alias.name}"


def _is_loop_module(name: str) -> bool:
    return name.startswith("asyncio.") and name.split(".")[1] in LOOP_MODULES


def _leads_to_a_loop(parts: list[str], aliases: set[str]) -> bool:
    if parts[0] in aliases:
        return True
    return parts[0] == "asyncio" and len(parts) > 1 and parts[1] in LOOP_MODULES + LOOP_CLASSES


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return "?"


def findings(root: Path) -> list[Finding]:
    """Everything that is wrong in a tree, by path and line."""
    files = rust_files(root)
    found = [
        *check_direction(files),
        *check_core_knows_no_python(root, files),
        *check_unsafe(files),
        *check_cells(files),
        *check_headers(root),
        *check_panics(files),
        *check_length(root),
        *check_python_layer(root),
    ]
    return sorted(set(found))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tools/layout.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree to check")
    parser.add_argument("--selftest", action="store_true", help="check the checker")
    options = parser.parse_args(arguments)
    if options.selftest:
        sys.path.insert(0, str(Path(__file__).resolve().parent))
        import layout_selftest

        return layout_selftest.run()
    if not (options.root / "crates").is_dir():
        parser.error(f"no crates/ in {options.root}")
    found = findings(options.root.resolve())
    for finding in found:
        print(finding)
    files = len(rust_files(options.root.resolve()))
    print(f"layout: {len(found)} finding{'' if len(found) == 1 else 's'} in {files} Rust files and python/aioxide")
    return 1 if found else 0


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
