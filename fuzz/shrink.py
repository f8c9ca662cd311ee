"""Makes a failing sequence small: leave out steps, then instructions of programs, then make numbers zero."""

import copy
import time


def shrink(steps, fails, seconds):
    """The smallest list of steps found in that time for which `fails` is true."""
    deadline = time.monotonic() + seconds

    def still(candidate):
        return time.monotonic() < deadline and fails(candidate)

    before = None
    while before != steps:
        before = steps
        steps = _without_parts(steps, still)
        for path in _programs(steps):
            steps = _shorten(steps, path, still)
        steps = _smaller_numbers(steps, still)
    return steps


def _without_parts(steps, still):
    size = max(1, len(steps) // 2)
    while True:
        at = 0
        while at < len(steps):
            candidate = steps[:at] + steps[at + size :]
            if still(candidate):
                steps = candidate
            else:
                at += size
        if size == 1:
            return steps
        size = max(1, size // 2)


def _is_program(part):
    return isinstance(part, list) and all(isinstance(step, list) and step and isinstance(step[0], str) for step in part)


def _programs(steps, path=()):
    """The paths of all lists of instructions inside, the outermost first."""
    for at, step in enumerate(steps):
        for number, part in enumerate(step[1:], 1):
            if _is_program(part) and part:
                yield (*path, at, number)
                yield from _programs(part, (*path, at, number))


def _at(steps, path):
    for number in path:
        steps = steps[number]
    return steps


def _with(steps, path, value):
    steps = copy.deepcopy(steps)
    _at(steps, path[:-1])[path[-1]] = value
    return steps


def _shorten(steps, path, still):
    try:
        program = _at(steps, path)
    except (IndexError, TypeError):  # a program around it was shortened
        return steps
    if not _is_program(program):
        return steps
    shorter = _without_parts(program, lambda part: still(_with(steps, path, part)))
    return steps if shorter == program else _with(steps, path, shorter)


def _smaller_numbers(steps, still):
    for at, step in enumerate(steps):
        for number, value in enumerate(step[1:], 1):
            if type(value) is int and value:
                candidate = _with(steps, (at, number), 0)
                if still(candidate):
                    steps = candidate
    return steps
