"""Draws sequences: a random list of steps from a seed, the same on every run and Python of one version."""

import random

from . import (  # noqa: F401  # they fill the table
    connections,
    endpoints,
    scheduling,
    sockets,
    system,
    tls,
    tls_peer_steps,
)
from .operations import OPERATIONS


def draw(seed, features, length=60):
    """A list of steps. What kinds of steps come is drawn first, so that each sequence dwells on something."""
    chance = random.Random(seed)
    known = [operation for operation in OPERATIONS.values() if operation.feature in features]
    chosen = chance.sample(known, min(len(known), chance.choice([8, 15, 30, len(known)])))
    dwelt_on = {operation.feature for operation in chosen}
    chosen += [it for it in known if it.begins and it.feature in dwelt_on and it not in chosen]
    weights = [operation.weight for operation in chosen]
    steps = []
    for _ in range(chance.randrange(length // 3, length + 1)):
        how = chance.random()
        if how < 0.12:
            steps.append(["turn"])
        elif how < 0.18:
            steps.append(["rest"])
        else:
            operation = chance.choices(chosen, weights)[0]
            steps.append([operation.name, *(draw(chance) for draw in operation.draws)])
    return steps


def count(steps):
    """How many public calls a sequence is: its steps, and the instructions of the programs in it."""
    total = 0
    for step in steps:
        total += 1
        total += sum(count(part) for part in step[1:] if isinstance(part, list))
    return total
