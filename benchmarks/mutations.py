"""How a valid file is damaged: flipped bits, cuts, splices, and numbers replaced by extremes."""

import re

import numpy as np

Rng = np.random.Generator

_EXTREMES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_WORDS = (
    *(b"0", b"-1", b"1e400", b"nan", b"-inf", b"1_0", b"", b'"', b",", b"\n", b"\0", b"99999999999999999999"),
    *(b"4294967296", b"9223372036854775807", b"()", b"((((((((", b"'", b"\xff", b"\xf0\x9f\x99\x82", b"x" * 300),
)
_DIGITS = re.compile(rb"\d+")


def mutate(data: bytes, rng: Rng) -> bytes:
    """Damage a file once or several times.

    Args:
        data: a valid file.
        rng: the source of randomness.
    """
    for _ in range(int(rng.integers(1, 4))):
        kind = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        data = kind(data, rng) if data else rng.bytes(4)
    return data


def flip_bits(data: bytes, rng: Rng) -> bytes:
    """Flip one to eight bits."""
    damaged = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        damaged[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def truncate(data: bytes, rng: Rng) -> bytes:
    """Cut the end or the begin off."""
    at = int(rng.integers(len(data)))
    return data[:at] if rng.random() < 0.8 else data[at:]


def splice(data: bytes, rng: Rng) -> bytes:
    """Insert, repeat, move or drop a piece."""
    start, to = sorted(int(at) for at in rng.integers(len(data), size=2))
    piece = data[start : to + 1]
    at = int(rng.integers(len(data)))
    return (
        data[:at] + piece + data[at:],
        data[:at] + piece + data[at + len(piece) :],
        data[:start] + data[to + 1 :],
        data[:at] + rng.bytes(int(rng.integers(1, 16))) + data[at:],
    )[int(rng.integers(4))]


def replace_number(data: bytes, rng: Rng) -> bytes:
    """Replace a binary number of one to eight bytes by an extreme one."""
    size = 1 << int(rng.integers(4))
    value = _EXTREMES[int(rng.integers(len(_EXTREMES)))] % (1 << 8 * size)
    at = _place(data, rng)
    return data[:at] + value.to_bytes(size, "little" if rng.random() < 0.5 else "big") + data[at + size :]


def replace_digits(data: bytes, rng: Rng) -> bytes:
    """Replace a number in digits by a word, in files without digits a byte."""
    # Counting all digits of a file would take most of the time.
    found = _DIGITS.search(data, _place(data, rng))
    start, end = found.span() if found else (_place(data, rng),) * 2
    return data[:start] + _WORDS[int(rng.integers(len(_WORDS)))] + data[end:]


MUTATIONS = (flip_bits, truncate, splice, replace_number, replace_digits)


def _place(data: bytes, rng: Rng) -> int:
    """A position, half of the time in the first or last bytes, where formats have their numbers."""
    size, near = len(data), min(len(data), 80)
    choice = rng.random()
    if choice < 0.3:
        return int(rng.integers(near))
    if choice < 0.5:
        return size - 1 - int(rng.integers(near))
    return int(rng.integers(size))
