"""What may happen to TLS records on their way: a few mutations, drawn once, each for the record of a certain number."""

HEADER = 5
TYPES = [20, 21, 22, 23, 24, 0, 99, 255]
#: Whole records, out of place.
STRANGERS = [
    b"\x15\x03\x03\x00\x02\x02\x28",  # alert: handshake_failure
    b"\x15\x03\x03\x00\x02\x01\x00",  # alert: close_notify
    b"\x15\x03\x03\x00\x02\x01\x5a",  # alert: user_canceled
    b"\x15\x03\x03\x00\x01\x02",  # half an alert
    b"\x14\x03\x03\x00\x01\x01",  # change_cipher_spec
    b"\x16\x03\x03\x00\x04\x00\x00\x00\x00",  # hello_request
    b"\x16\x03\x03\x00\x05\x18\x00\x00\x01\x00",  # key_update, unprotected
    b"\x16\x03\x03\x00\x04\x01\xff\xff\xff",  # the beginning of a very long client_hello
    b"\x17\x03\x03\x00\x00",  # an empty record
    b"\x17\x03\x03\x00\x40" + bytes(64),  # a record that nobody has sealed
    b"\x18\x03\x03\x00\x03\x01\x40\x00",  # a heartbeat that asks for more than it has
    b"\x80\x2e\x01\x00\x02" + bytes(43),  # an SSL 2 hello
    b"GET / HTTP/1.1\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.9\r\n",
]


def flip(chance, record):
    at = chance.randrange(len(record) * 8)
    return [bytes(byte ^ (1 << at % 8) if place == at // 8 else byte for place, byte in enumerate(record))]


def cut(chance, record):
    return [record[: chance.randrange(len(record))]]


def repeat(chance, record):
    return [record] * chance.choice([2, 3, 20])


def drop(chance, record):
    return []


def length(chance, record):
    size = chance.choice(
        [0, 1, len(record) - HEADER - 1, len(record) - HEADER + 1, 16_385, 16_640, 18_432, 18_433, 65_535]
    )
    return [record[:3] + max(0, size).to_bytes(2, "big") + record[HEADER:]]


def kind(chance, record):
    return [bytes([chance.choice(TYPES)]) + record[1:]]


def version(chance, record):
    return [record[:1] + chance.choice([b"\x03\x00", b"\x03\x01", b"\x03\x04", b"\x02\x00", b"\xff\xff"]) + record[3:]]


def insert(chance, record):
    return [chance.choice(STRANGERS), record]


def noise(chance, record):
    return [chance.randbytes(chance.choice([1, 5, 100])), record]


def split(chance, record):
    """Into two records: allowed as long as a handshake is not encrypted."""
    body = record[HEADER:]
    at = chance.randrange(len(body) + 1)
    return [record[:3] + len(part).to_bytes(2, "big") + part for part in (body[:at], body[at:])]


def flood(chance, record):
    """Of records that say nothing."""
    return [chance.choice(STRANGERS[2:9])] * chance.choice([30, 40, 200]) + [record]


MUTATIONS = [flip, flip, flip, cut, repeat, drop, length, kind, version, insert, insert, noise, split, flood]


class Mutator:
    """Up to three mutations of the first records of a stream, and perhaps two records that change places."""

    def __init__(self, chance):
        self.chance = chance
        self.plan = {chance.randrange(12): chance.choice(MUTATIONS) for _ in range(chance.choice([0, 1, 1, 1, 2, 3]))}
        self.swapped = chance.randrange(12) if chance.random() < 0.1 else None
        self.cut_at = chance.randrange(1500) if chance.random() < 0.1 else None
        self.number = self.passed = 0
        self.has_mutated = False
        #: Said by the case: both sides have their keys.
        self.is_sealed = False
        #: The inside of a sealed record is not what it was: this must be noticed.
        self.has_broken = False
        self.held = b""

    def pass_on(self, data):
        """What becomes of these bytes, which are whole records."""
        out = self.held
        self.held = b""
        for record in records(data):
            change, number = self.plan.get(self.number), self.number
            self.number += 1
            if number == self.swapped:
                self.held, self.has_mutated = record, True
                continue
            if change is not None:
                self.has_mutated = True
                changed = change(self.chance, record)
                if change is flip and self.is_sealed and changed[0][:HEADER] == record[:HEADER]:
                    self.has_broken = len(self.plan) == 1 and self.swapped is None and self.cut_at is None
                out += b"".join(changed)
            else:
                out += record
            out, self.held = out + self.held, b""
        if self.cut_at is not None and self.passed + len(out) > self.cut_at:
            self.has_mutated = True
            out = out[: max(0, self.cut_at - self.passed)]
        self.passed += len(out)
        return out


def records(data):
    """Its whole records, and what is left."""
    at = 0
    while at < len(data):
        end = at + HEADER + int.from_bytes(data[at + 3 : at + HEADER], "big")
        yield data[at:end]
        at = end
