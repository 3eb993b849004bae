"""Trees of arrays in one file of the safetensors format, by name, with JSON beside them; no code is ever loaded.

Hugging Face, https://github.com/huggingface/safetensors: a header of JSON, then the bytes of the arrays. A digest of
all of it lies in the header, so that a damaged file is told from a good one.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fbp.data.files import replacing
from fbp.errors import FbpError, describe_exception
from fbp.serialize import to_json_line

_KEY = "fbp"


class Tensors(NamedTuple):
    """What a file holds.

    Attributes:
        arrays: by name.
        facts: plain data as JSON has them.
    """

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def save_tensors(path: Path, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write a file, whole or not at all.

    Args:
        path: the file, replaced if it exists.
        arrays: by name.
        facts: what else there is to know, as JSON can hold it; NaN and infinities become strings.

    Raises:
        OSError: the disk does not take it.
    """
    from safetensors.numpy import save

    # The format takes the memory of an array as it lies.
    own = {name: np.array(array, order="C") for name, array in arrays.items()}
    text = to_json_line(facts)
    # One entry: several would be written in an order of their own each time.
    content = save(own, {_KEY: f"{digest(own, text)} {text}"})
    with replacing(path) as new:
        new.write_bytes(content)


def load_tensors(path: Path) -> Tensors:
    """Read a file, every byte of it checked.

    Args:
        path: the file.

    Raises:
        FbpError: it is missing, damaged, or was written by something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = path.read_bytes()
    except OSError as error:
        raise FbpError(
            f"a file of weights must be readable, got {path} ({error.strerror or error}); check the path"
        ) from error
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        kept, _, text = header["__metadata__"][_KEY].partition(" ")
        facts = json.loads(text)
        arrays = load(content)
        is_whole = digest(arrays, text) == kept and isinstance(facts, dict)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise FbpError(
            f"a file of weights must be whole and written by fbp, got {path} ({describe_exception(error)}); "
            "use another one"
        ) from error
    if not is_whole:
        raise FbpError(f"a file of weights must hold what was written, got {path} with other bytes; use another one")
    return Tensors(arrays, facts)


@contextmanager
def understand(path: Path) -> Iterator[None]:
    """Refuse a file that is whole but does not say what fbp writes: whatever reading it raises is the file's fault.

    Args:
        path: the file, for the message.

    Raises:
        FbpError: the body raises something.
    """
    try:
        yield
    except FbpError:
        raise
    except Exception as error:
        raise FbpError(
            f"a file of a run must say what fbp writes, got {path} ({describe_exception(error)}); use another one"
        ) from error


def check_schema(found: Tensors, schema: str, version: int, what: str, path: str | Path, remedy: str) -> None:
    """Refuse a file of another kind, or of another version of fbp.

    Args:
        found: what it holds.
        schema: its kind, under "schema" in its facts.
        version: of the kind, under "schema_version".
        what: the kind in words, for the message.
        path: the file.
        remedy: what to do.

    Raises:
        FbpError: it is another.
    """
    received = [found.facts.get(key) for key in ("schema", "schema_version")]
    if received != [schema, version]:
        raise FbpError(f"{what} must have the schema {schema} {version}, got {received!r} in {path}; {remedy}")


def name_leaves(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The leaves of a pytree as NumPy arrays by name, "params.blocks.q.W"; keys of randomness as integers.

    Args:
        tree: a pytree.
        prefix: what each name begins with.
    """
    named = {_name(prefix, path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
    return jax.device_get({name: jax.random.key_data(x) if _is_key(x) else x for name, x in named.items()})


def restore_leaves(like: Any, arrays: Mapping[str, np.ndarray], prefix: str = "", *, any_dtype: bool = False) -> Any:
    """The inverse of `name_leaves`.

    Args:
        like: a pytree of the structure, the shapes and the dtypes that are wanted.
        arrays: by name.
        prefix: what each name begins with.
        any_dtype: take the dtypes as they were saved.

    Raises:
        FbpError: a name is missing or left over, or a shape or a dtype differs.
    """
    wanted = {_name(prefix, path): leaf for path, leaf in jax.tree.leaves_with_path(like)}
    own = {name: array for name, array in arrays.items() if name == prefix or name.startswith(f"{prefix}.")}
    found = own if prefix else dict(arrays)
    differences = [f"no {name}" for name in wanted if name not in found]
    differences += [f"an unexpected {name}" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        here = jax.random.key_data(wanted[name]) if _is_key(wanted[name]) else wanted[name]
        there = found[name]
        if np.shape(here) != there.shape or (here.dtype != there.dtype and not any_dtype):
            described = f"{here.dtype} {np.shape(here)}"
            differences.append(f"{name} as {there.dtype} {there.shape}, here {described}")
    if differences:
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise FbpError(
            f"saved arrays must be those of this network and optimizer, got {', '.join(differences[:4])}{more}; "
            "use the ones that were saved"
        )

    def restore(path: Any, leaf: Any) -> Any:
        array = found[_name(prefix, path)]
        if _is_key(leaf):
            return jax.random.wrap_key_data(jax.device_put(array), impl=jax.random.key_impl(leaf))
        return jax.device_put(array)

    return jax.tree.map_with_path(restore, like)


def _name(prefix: str, path: Any) -> str:
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return ".".join(part for part in (prefix, name) if part)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    """What tells a file from one that was changed.

    Args:
        arrays: by name.
        text: the JSON beside them.
    """
    sha256 = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha256.update(f"\0{name} {array.dtype} {array.shape}\0".encode())
        # bfloat16 has no buffer of its own.
        sha256.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b"")
    return sha256.hexdigest()
