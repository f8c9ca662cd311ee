"""The contenders: what a name on the command line stands for.

Most are modules with a new_event_loop(). The others are another contender's loop under certain circumstances: with a variable in the
environment, or with its network methods replaced by a package, which then has two hosts to run on.
"""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import dataclass, field

PLAIN = ("asyncio", "uvloop", "rloop", "aioxide")
#: rloop has no TLS.
TLS = ("asyncio", "uvloop", "aiofastnet", "aiofastnet-uvloop", "aioxide-fallback", "aioxide")
#: In the order of the tables.
ALL = ("asyncio", "uvloop", "rloop", "aiofastnet", "aiofastnet-uvloop", "aioxide-fallback", "aioxide")
#: One package on several hosts: it is fair to compare with the better one.
AIOFASTNET = ("aiofastnet", "aiofastnet-uvloop")


@dataclass(frozen=True)
class Loop:
    module: str  # its new_event_loop() makes the loop, whose type is of that package
    patched_by: str | None = None  # its patch_loop() replaces the loop's methods
    environment: dict[str, str] = field(default_factory=dict)
    tls: str | None = None  # the engine that it must have

    def load(self) -> None:
        """Raise ImportError or AttributeError if it is not there. Makes no loop: to free one changes malloc's state."""
        _ = importlib.import_module(self.module).new_event_loop
        if self.patched_by:
            _ = importlib.import_module(self.patched_by).patch_loop

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = importlib.import_module(self.module).new_event_loop()
        if self.patched_by:
            importlib.import_module(self.patched_by).patch_loop(loop)
        return loop

    def check(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raise RuntimeError unless it is one of ours: to measure asyncio under another name is worse than not to measure."""
        running = describe(loop)
        if running.partition(".")[0] != self.module or patch_of(loop) != self.patched_by:
            raise RuntimeError(f"asked for {self}, but {running} runs")
        if self.tls and self.tls != engine_of(self.module):
            raise RuntimeError(f"asked for the {self.tls} engine, but aioxide has the {engine_of(self.module)} one")


#: Anything else is a module's name.
CIRCUMSTANCES = {
    "aioxide-fallback": Loop("aioxide", environment={"AIOXIDE_TLS": "fallback"}, tls="fallback"),
    "aiofastnet": Loop("asyncio", patched_by="aiofastnet"),
    "aiofastnet-uvloop": Loop("uvloop", patched_by="aiofastnet"),
}


def named(name: str) -> Loop:
    return CIRCUMSTANCES.get(name) or Loop(name)


def engine_of(module: str) -> str:
    return str(importlib.import_module(module).build_info()["tls"])


def patch_of(loop: asyncio.AbstractEventLoop) -> str | None:
    """The package that has replaced the loop's methods, if one has: aiofastnet puts a partial of its function there."""
    function = getattr(vars(loop).get("create_server"), "func", None) if hasattr(loop, "__dict__") else None
    return function.__module__.partition(".")[0] if function else None


def type_name(obj: object) -> str:
    return f"{type(obj).__module__}.{type(obj).__qualname__}"


def describe(loop: asyncio.AbstractEventLoop) -> str:
    patch = patch_of(loop)
    name = type_name(loop)
    if name.startswith("aioxide."):
        name += f" with {engine_of('aioxide')} TLS"
    return f"{name} patched by {patch}" if patch else name
