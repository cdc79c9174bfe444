"""Bytes and JSON values with something changed in them, drawn from a seeded source."""

import random

NUMBERS = (0, -1, 1, 2**31, 2**63, 10**30, 1e308, 5e-324, True, None)
TEXTS = ("", "x", "../../etc/passwd", "/etc/passwd", "hf-hub:org/net", "\0", "a" * 5000, "NaN", "résumé", "\ud800")
TOKENS = (b"=", b"[", b"]", b"{", b"}", b'"', b"\n", b"9" * 5000, b"0x" + b"f" * 5000, b"1e999", b"nan", b"-inf")
TOKENS += (b"1979-05-27", b"true", b"''", b"[[run]]", b"[[grid]]", b"[defaults]", b"\xff", b"\0", b"seed = -1")


def spoilt(source: random.Random, content: bytes) -> bytes:
    """Content with a few bits flipped, bytes replaced, parts cut, doubled or moved, or tokens put in."""
    data = bytearray(content)
    for _ in range(source.choice((1, 1, 2, 5))):
        at, size = source.randrange(len(data) + 1), source.choice((1, 4, 64))
        match source.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << source.randrange(8)
            case 1:
                data[at : at + size] = source.randbytes(size)
            case 2:
                del data[at : at + source.choice((size, len(data)))]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                data[at:at] = source.choice(TOKENS)
            case _:
                data[: len(data)] = data[at:] + data[:at]
    return bytes(data)


def changed(source: random.Random, value: object, depth: int = 0) -> object:
    """A JSON value with one place in it changed."""
    if isinstance(value, dict) and value and source.random() < 0.9:
        key = source.choice(sorted(value))
        if source.random() < 0.15:
            return {other: inner for other, inner in value.items() if other != key}
        if source.random() < 0.1:
            return {**value, source.choice(TEXTS): value[key]}
        return {**value, key: changed(source, value[key], depth + 1)}
    if isinstance(value, list) and value and source.random() < 0.7:
        index = source.randrange(len(value))
        return [*value[:index], changed(source, value[index], depth + 1), *value[index + 1 :]]
    wild = [*NUMBERS, *TEXTS, [], {}, [1] * 300, {"a": {"b": {"c": {"d": {"e": 1}}}}}]
    near = [value + 1, value * 2, -value] if isinstance(value, int | float) and not isinstance(value, bool) else []
    return source.choice(wild + near * 5)
