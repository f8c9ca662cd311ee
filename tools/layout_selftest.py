"""The self-test of tools/layout.py: each violation is planted in a small tree and must be found.

A tree without violations, full of traps, must pass; each plant must give its finding, at its line,
and no other.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import layout

#: A tree with every kind of file and traps that are no violations.
CLEAN = {
    "crates/core/Cargo.toml": '[package]\ndescription = "no pyo3 here"\n[dependencies]\nrustix = "1"\n',
    "crates/core/src/lib.rs": "//! The core.\n#![deny(unsafe_code)]\npub mod sys;\npub mod reactor;\n",
    "crates/core/src/sys/mod.rs": "//! Fence.\n#![allow(unsafe_code)]\nfn f() { unsafe { g() } }\n",
    "crates/core/src/time/mod.rs": "//! Time.\nuse crate::sys::clock;\n",
    "crates/core/src/reactor/mod.rs": (
        "//! The reactor: unsafe words, crate::kernel::Poll and .unwrap() in a comment.\n"
        "use crate::sys::{self, epoll::Epoll as E};\n"
        "/* nested /* unsafe */ crate::net */\n"
        'const A: &str = "unsafe crate::net \\" .unwrap()"; const B: &str = r#"unsafe "todo!" "#;\n'
        "fn life<'a>(c: char) -> bool { c == '\"' || c == '\\'' }\n"
        "#[cfg(test)]\nmod tests {\n    fn t() { Some(1).unwrap(); todo!() }\n}\n"
    ),
    "crates/python/src/lib.rs": "//! The binding.\npub mod ffi;\npub mod objects;\npub mod surface;\n",
    "crates/python/src/ffi/cell.rs": "//! Cells.\npub use std::cell::Cell;\n",
    "crates/python/src/ffi/mod.rs": (
        "//! Fence.\n#[macro_export]\nmacro_rules! call { () => { unsafe { $crate::ffi::f() } } }\n"
        "mod inner { use super::Obj; }\n"
    ),
    "crates/python/src/objects/names.rs": (
        "//! Names.\n#[macro_export]\nmacro_rules! name { () => { $crate::ffi::Name } }\n"
    ),
    "crates/python/src/objects/future/mod.rs": "//! Future.\nuse super::names;\nuse crate::ffi::cell::Cell;\nuse crate::name;\n",
    "crates/python/src/surface/mod.rs": "//! Top.\nuse crate::{ffi::Obj, objects::future, name};\n",
    "python/aioxide/_loop.py": (
        '"""asyncio.BaseEventLoop in a docstring."""\n'
        "from asyncio.base_events import _run_until_complete_cb\n"
        "from asyncio import base_events\n"
        "A = stdlib_mentions(base_events.Server.close, 'x')\n"
    ),
    "python/aioxide/_install.py": (
        "from asyncio import unix_events\nnames = vars(unix_events)\n"
        "stock = names.get('_DefaultEventLoopPolicy') or names['DefaultEventLoopPolicy']\n"
    ),
}


class Plant(NamedTuple):
    """A violation: what is appended to which file, and where and as what it must be found."""

    title: str
    path: str
    text: str
    message: str
    line: int = 1  # of the appended text


PLANTS = [
    Plant(
        "use of a higher layer",
        "crates/python/src/objects/names.rs",
        "use crate::surface::event_loop::EventLoop;\n",
        "`objects` uses `surface`",
    ),
    Plant(
        "a higher layer in a use tree",
        "crates/python/src/ffi/mod.rs",
        "use crate::{\n    ffi::Obj,\n    tasks::{task, Task},\n};\n",
        "`ffi` uses `tasks`",
    ),
    Plant(
        "a path without use",
        "crates/python/src/objects/future/mod.rs",
        "fn f() { crate::io::run() }\n",
        "`objects` uses `io`",
    ),
    Plant(
        "a higher layer by way of super",
        "crates/python/src/objects/future/mod.rs",
        "use super::super::tasks::task;\n",
        "`objects` uses `tasks`",
    ),
    Plant(
        "super inside an inline module",
        "crates/python/src/objects/names.rs",
        "mod inner { use super::super::super::io::x; }\n",
        "`objects` uses `io`",
    ),
    Plant(
        "a higher layer inside a macro",
        "crates/python/src/ffi/mod.rs",
        "macro_rules! m { () => { $crate::objects::x() } }\n",
        "`ffi` uses `objects`",
    ),
    Plant(
        "a macro of a higher layer",
        "crates/python/src/ffi/mod.rs",
        'fn f() { crate::name!("x") }\n',
        "`ffi` uses `objects`",
    ),
    Plant(
        "the crate's root under another name",
        "crates/python/src/ffi/mod.rs",
        "use crate as root;\n",
        "names no layer",
    ),
    Plant(
        "a glob of the crate's root",
        "crates/python/src/objects/names.rs",
        "use crate::*;\n",
        "names no layer",
    ),
    Plant(
        "a module from elsewhere",
        "crates/python/src/lib.rs",
        '#[path = "/tmp/io.rs"]\npub mod io;\n',
        "#[path]",
    ),
    Plant("a folder that is no layer", "crates/python/src/util/mod.rs", "//! Things.\n", "`util` is no layer"),
    Plant(
        "the core upside down",
        "crates/core/src/time/mod.rs",
        "use crate::reactor::Token;\n",
        "`time` uses `reactor`",
    ),
    Plant("neighbours in the core", "crates/core/src/time/mod.rs", "use crate::ready::Ready;\n", "neighbour"),
    Plant(
        "Python in the core's source",
        "crates/core/src/reactor/mod.rs",
        "use pyo3_ffi as c;\n",
        "knows no Python",
    ),
    Plant(
        "Python in the core's manifest",
        "crates/core/Cargo.toml",
        'ffi = { package = "pyo3-ffi", version = "0" }\n',
        "depends on no Python",
    ),
    Plant(
        "unsafe outside the fence",
        "crates/python/src/objects/names.rs",
        "fn f() { unsafe { g() } }\n",
        "unsafe outside",
    ),
    Plant(
        "unsafe impl outside the fence",
        "crates/core/src/reactor/mod.rs",
        "unsafe impl Send for X {}\n",
        "unsafe outside",
    ),
    Plant(
        "a cell for one thread",
        "crates/python/src/objects/names.rs",
        "use std::{mem, cell::{Cell, RefCell}};\n",
        "`std::cell` is for one thread",
    ),
    Plant(
        "a count for one thread",
        "crates/python/src/surface/mod.rs",
        "struct X {\n    a: std::rc::Rc<u8>,\n}\n",
        "`std::rc` is for one thread",
        2,
    ),
    Plant(
        "the lint lifted",
        "crates/core/src/reactor/mod.rs",
        "#[allow(dead_code, unsafe_code)]\nfn f() {}\n",
        "lint is not lifted",
    ),
    Plant("no header", "crates/core/src/time/heap.rs", "use std::mem;\n", "opens with `//!`"),
    Plant("no header in a test", "crates/core/tests/core/x.rs", "// no\n", "opens with `//!`"),
    Plant(
        "unwrap",
        "crates/python/src/surface/mod.rs",
        "fn f() {\n    g()\n        .unwrap();\n}\n",
        "`.unwrap()`",
        3,
    ),
    Plant(
        "unwrap after a test module",
        "crates/core/src/reactor/mod.rs",
        "fn f() { g().unwrap() }\n",
        "`.unwrap()`",
    ),
    Plant("todo!", "crates/core/src/time/mod.rs", "fn f() { todo!() }\n", "`todo!`"),
    Plant("unimplemented!", "crates/core/src/time/mod.rs", "fn f() { unimplemented!() }\n", "`unimplemented!`"),
    Plant("a long file", "tests/unit/test_long.py", "x = 1\n" * (layout.MAX_LINES + 1), "needs a reason", 601),
    Plant(
        "asyncio's loop as a base",
        "python/aioxide/_loop.py",
        "from asyncio.base_events import BaseEventLoop\n",
        "base_events.BaseEventLoop",
    ),
    Plant(
        "asyncio's loop by its public name",
        "python/aioxide/_loop.py",
        "import asyncio\nclass L(asyncio.SelectorEventLoop): pass\n",
        "SelectorEventLoop",
        2,
    ),
    Plant(
        "asyncio's loop by an alias",
        "python/aioxide/_loop.py",
        "import asyncio.selector_events as s\nmake = s.BaseSelectorEventLoop\n",
        "s.Base",
        2,
    ),
    Plant(
        "asyncio's loop by its module",
        "python/aioxide/_loop.py",
        "f = base_events.BaseEventLoop.call_soon\n",
        "base_events.BaseEventLoop.call_soon",
    ),
    Plant(
        "asyncio's loop module in another file",
        "python/aioxide/_loop.py",
        "from asyncio import unix_events\nnames = vars(unix_events)\n",
        "unix_events",
        2,
    ),
]


def misses(plant: Plant | None) -> list[str]:
    """What is wrong about the findings in a clean tree with this one violation; None: without any."""
    with tempfile.TemporaryDirectory(prefix="aioxide-layout-") as folder:
        root = Path(folder)
        for name, text in CLEAN.items():
            _write(root / name, text)
        if plant is None:
            return [f"found in a clean tree: {f}" for f in layout.findings(root)]
        before = CLEAN.get(plant.path, "")
        _write(root / plant.path, before + plant.text)
        found = layout.findings(root)
        offset = before.count("\n")
    line = offset + plant.line
    hits = [f for f in found if f.path == plant.path and f.line == line and plant.message in f.message]
    wrong = [] if hits else [f"{plant.title}: not found at {plant.path}:{line}"]
    return wrong + [f"{plant.title}: found besides: {f}" for f in found if f not in hits]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def run() -> int:
    wrong = [line for plant in (None, *PLANTS) for line in misses(plant)]
    for line in wrong:
        print(f"tools/layout.py:1: self-test: {line}")
    print(f"layout self-test: {len(PLANTS)} violations planted, {len(wrong)} problems")
    return 1 if wrong else 0
