"""Text as tokens, one a character, and windows of tokens to predict the next one of."""

import codecs
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from fbp.data.datasets import Dataset, content_hash
from fbp.data.files import CHUNK, check_file, reject, unreadable
from fbp.errors import FbpError, check_count

_KIND = "a text file"
_SHORTEST = 20
"""Characters; a tenth of them is one window of one token and its next."""


def load_text(path: Path) -> Dataset:
    """Load the characters of a text: the first nine tenths to train on, the rest to test on.

    Memory takes at most 8 bytes for a byte of the file, and 32 MiB.

    Args:
        path: a file in UTF-8.

    Raises:
        FbpError: the file is missing, unreadable, too short or not in UTF-8.
    """
    name = check_file(_KIND, path)
    try:
        codes = list(_read_codes(path, name))
    except OSError as error:
        raise unreadable(_KIND, name, error) from error
    count = sum(map(len, codes))
    if count < _SHORTEST:
        raise reject(_KIND, f"have at least {_SHORTEST} characters", f"{count} in {name}", "take a longer one")
    occurs = np.zeros(sys.maxunicode + 1, bool)
    for block in codes:
        occurs[block] = True
    number = np.cumsum(occurs, dtype=np.int32) - 1
    for i, block in enumerate(codes):
        codes[i] = number[block]
    tokens = np.concatenate(codes)
    characters = tuple(map(chr, np.flatnonzero(occurs).tolist()))
    cut = count * 9 // 10
    arrays = [side for part in (tokens[:cut], tokens[cut:]) for side in (part[:-1], part[1:])]
    return Dataset(
        path.name,
        *arrays,
        classes=len(characters),
        sha256=content_hash(*arrays),
        class_names=characters,
        vocabulary=len(characters),
        held_out=True,
    )


def _read_codes(path: Path, name: str) -> Iterator[np.ndarray]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with open(path, "rb") as file:
        while True:
            start = file.tell()
            chunk = file.read(CHUNK)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                where = f"{error.reason} near byte {start + error.start} of {name}"
                raise reject(_KIND, "be in UTF-8", where, "convert it, e.g. with iconv -t UTF-8") from error
            yield np.frombuffer(text.encode("utf-32-le"), "<u4")
            if not chunk:
                return


def windows(tokens: ArrayLike, length: int, stride: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cut tokens into windows, each with the tokens that come next: X[i, t] = tokens[i stride + t], Y[i, t] the next.

    Both are read-only views of the tokens, however much the windows overlap.

    Args:
        tokens: (n,) integers.
        length: T, the tokens of a window.
        stride: from the begin of one window to that of the next; by default `length`, so that none overlap.

    Returns:
        X and Y, (m, T) with m = (n - T - 1) // stride + 1.

    Raises:
        FbpError: the tokens are not integers in one row, or too few.

    Example:
        >>> X, Y = fbp.data.windows(np.arange(7), 3)
        >>> X.tolist(), Y.tolist()
        ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
    """
    tokens = np.asarray(tokens)
    stride = length if stride is None else stride
    check_count("length", length)
    check_count("stride", stride)
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise _not_tokens(tokens)
    if len(tokens) <= length:
        raise FbpError(
            f"windows of {length} tokens must have a next one, got {len(tokens)} tokens; "
            f"take a length of at most {max(len(tokens) - 1, 1)}"
        )
    both = sliding_window_view(tokens, length + 1)[::stride]
    return both[:, :-1], both[:, 1:]


def encode(text: str, characters: Sequence[str]) -> np.ndarray:
    """The tokens of a text, (n,) int32.

    Args:
        text: what to encode.
        characters: those that tokens stand for, as in `Dataset.class_names`.

    Raises:
        FbpError: a character is not among them.

    Example:
        >>> fbp.data.encode("abba", ("a", "b"))
        array([0, 1, 1, 0], dtype=int32)
    """
    number = {character: token for token, character in enumerate(characters)}
    missing = next((character for character in text if character not in number), None)
    if missing is not None:
        raise FbpError(
            f"a text must be of the {len(number)} characters that were learnt, got {missing!r}; leave it out"
        )
    return np.array([number[character] for character in text], np.int32)


def decode(tokens: ArrayLike, characters: Sequence[str]) -> str:
    """The text of tokens.

    Args:
        tokens: (n,) integers.
        characters: those that tokens stand for, as in `Dataset.class_names`.

    Raises:
        FbpError: a token stands for none.

    Example:
        >>> fbp.data.decode([0, 1, 1, 0], ("a", "b"))
        'abba'
    """
    array = np.asarray(tokens)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise _not_tokens(array)
    wrong = array[(array < 0) | (array >= len(characters))]
    if wrong.size:
        raise FbpError(f"tokens must be in 0..{len(characters) - 1}, got {wrong[0]}; check the vocabulary")
    return "".join([characters[int(token)] for token in array])


def _not_tokens(array: np.ndarray) -> FbpError:
    return FbpError(f"tokens must be integers of shape (n,), got {array.dtype} {array.shape}; give one row of them")
