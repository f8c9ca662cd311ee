"""The table of steps. A step's function gets the world and the step's numbers."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

#: What aioxide has. A feature that arrives is switched on here, and from then on "not implemented" is a difference.
AIOXIDE_HAS = {
    "base": True,
    "debug": True,
    "unix": True,
    "datagram": True,
    "pipes": True,
    "subprocess": True,
    "signals": True,
    "sendfile": True,
    # Of 3.10 asyncio's TLS is another one, full of faults.
    **({"tls": True} if sys.version_info >= (3, 11) else {}),
}


class Operation(NamedTuple):
    name: str
    weight: float
    #: One per number of the step: how to draw it.
    draws: tuple[Callable[[Any], Any], ...]
    call: Callable[..., None]
    feature: str
    channel: str
    #: The loop comes to rest after it: how many turns it takes is not said.
    rests: bool
    #: Not inside a callback: what a callback has written may be held until its end.
    outside: bool
    #: It makes what other steps of the feature work on, so it may always be drawn with these.
    begins: bool


OPERATIONS: dict[str, Operation] = {}


def up_to(bound):
    """Draws a number below the bound."""
    return lambda chance: chance.randrange(bound)


def one_of(*choices):
    return lambda chance: chance.choice(choices)


#: An index into whatever there is by then.
index = up_to(8)


def operation(weight, *draws, feature="base", channel="steps", rests=False, outside=False, since=(3, 10), begins=False):
    """Put a function into the table, under its name."""

    def enter(call):
        if sys.version_info >= since:
            assert call.__name__ not in OPERATIONS
            made = Operation(call.__name__, weight, draws, call, feature, channel, rests, outside, begins)
            OPERATIONS[call.__name__] = made
        return call

    return enter
