"""Variables of MATLAB files (version 5 and 7.3) and of plain HDF5 as dicts, lists and arrays.

A path to a variable is names joined by dots ("eeg.imagery_left"). Each may be a wildcard
("*_eeg*"), and cells on the way are walked through.

Source: scipy.io for version 5; version 7.3 is HDF5 with the axes of every array reversed.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.compat import optional
from neurofm.io.integrity import check_file

_HDF5 = b"\x89HDF"
_NESTED = 12  # deeper structures than any corpus has


def find(tree: Any, path: str) -> list[Any]:
    """What lies at a dotted path; every match of a wildcard, numbers in names in their order.

    Cells (lists) on the way are walked through. An empty path is the tree itself.
    """
    if isinstance(tree, list):
        return [item for part in tree for item in find(part, path)]
    if not path:
        return [tree]
    if not isinstance(tree, Mapping):
        return []
    head, _, rest = path.partition(".")
    names = sorted((name for name in tree if fnmatch.fnmatchcase(name, head)), key=_natural)
    return [item for name in names for item in find(tree[name], rest)]


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]


def read_mat(path: Path) -> dict[str, Any]:
    """Variables of a MATLAB file or HDF5 file: structures as dicts, cells as lists, else arrays.

    Raises:
        ValueError: Not a MATLAB or HDF5 file, or damaged.
    """
    check_file(path)
    with path.open("rb") as file:
        start = file.read(4)
    try:
        if start == _HDF5 or _is_hdf5(path):
            return _read_hdf5(path)
        return _read_version5(path)
    except (OSError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: not a MATLAB file, or damaged ({type(error).__name__}: {error}). Fetch it "
            "again."
        ) from error


def _is_hdf5(path: Path) -> bool:
    """Version 7.3 files have a header of 512 bytes in front."""
    with path.open("rb") as file:
        file.seek(512)
        return file.read(4) == _HDF5


def _read_version5(path: Path) -> dict[str, Any]:
    import scipy.io

    try:
        found = scipy.io.loadmat(path, simplify_cells=True, mat_dtype=False)
    except (scipy.io.matlab.MatReadError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path}: not a MATLAB file, or damaged ({error}). Fetch it again."
        ) from error
    return {k: _plain(v) for k, v in found.items() if not k.startswith("__")}


def _plain(value: Any) -> Any:
    """scipy's nested values: arrays of objects become lists."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [_plain(item) for item in value.ravel(order="F").tolist()]
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return [str(item).rstrip() for item in value.ravel().tolist()]
    return value


def _read_hdf5(path: Path) -> dict[str, Any]:
    h5py = optional("h5py")
    with h5py.File(path, "r") as file:
        return {k: _from_hdf5(h5py, file, v) for k, v in file.items() if k != "#refs#"}


def _from_hdf5(h5py: Any, file: Any, item: Any, depth: int = 0) -> Any:
    if depth > _NESTED:
        raise ValueError(f"{file.filename}: structures nested more than {_NESTED} deep.")
    if isinstance(item, h5py.Group):
        return {name: _from_hdf5(h5py, file, child, depth + 1) for name, child in item.items()}
    matlab = item.attrs.get("MATLAB_class")
    if item.attrs.get("MATLAB_empty"):
        return np.zeros(0)
    value = item[()]
    if isinstance(value, h5py.Reference) or getattr(value, "dtype", None) == h5py.ref_dtype:
        cells = np.ravel(value).tolist()  # reversed axes, so rows here are columns in MATLAB
        return [_from_hdf5(h5py, file, file[cell], depth + 1) for cell in cells]
    if matlab in (b"char", "char"):
        return "".join(chr(int(code)) for code in np.ravel(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind == "O":
        return [v.decode() if isinstance(v, bytes) else v for v in value.ravel().tolist()]
    return value.T if matlab is not None else value
