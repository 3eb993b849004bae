"""Values as JSON: Python's own types, and one convention for NaN and infinity everywhere in fbp.

JSON has neither NaN nor infinity, so they are written as the strings "NaN", "Infinity" and "-Infinity".
"""

import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any


def to_json(value: Any) -> str:
    """Strict JSON, indented, of any value that `plain` takes."""
    return json.dumps(strict(value), indent=2, ensure_ascii=False, allow_nan=False)


def to_json_line(value: Any) -> str:
    """Strict JSON on one line, of any value that `plain` takes."""
    return json.dumps(strict(value), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """The value in Python's own types: NumPy and JAX scalars and arrays become numbers and lists."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def strict(value: Any) -> Any:
    """The value for strict JSON: NaN and infinities become "NaN", "Infinity" and "-Infinity"."""
    return _name_nonfinite(plain(value))


def _name_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _name_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_name_nonfinite(item) for item in value]
    return value
