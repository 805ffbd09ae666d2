"""Numbers in JSON documents: lists that people read, or where they are many, text of their bytes.

An image of 200,000 voxels has a million coordinates. As Python floats they take 30 times the room
of an array, more than the samples that are in memory at a time.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

_LISTED = 4096  # numbers written as a list, at most
_TYPES = ("<f8", "<f4", "|i1")


def to_json(values: np.ndarray) -> Any:
    """Numbers as a JSON value, exact. A list cannot hold NaN: callers put null there."""
    values = np.asarray(values)
    if values.size <= _LISTED:
        return values.tolist()
    if values.dtype == np.float64:
        with np.errstate(over="ignore"):
            short = values.astype(np.float32)
        values = short if np.array_equal(short, values, equal_nan=True) else values
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return {"type": little.dtype.str, "base64": base64.b64encode(little.data).decode("ascii")}


def from_json(value: Any, dtype: type) -> np.ndarray:
    """What `to_json` was given, along one axis if it was written as text.

    Raises:
        ValueError: Not numbers.
    """
    if not isinstance(value, dict):
        return np.array(value, dtype=dtype)
    if value.get("type") not in _TYPES or not isinstance(value.get("base64"), str):
        raise ValueError(f"numbers of type {value.get('type')!r}, expected {', '.join(_TYPES)}.")
    try:
        raw = base64.b64decode(value["base64"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"numbers that cannot be decoded ({error}).") from error
    return np.frombuffer(raw, dtype=value["type"]).astype(dtype)
