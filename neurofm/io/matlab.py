"""Variables of MATLAB files (version 5 and 7.3) and of plain HDF5 as dicts, lists and arrays.

A path to a variable is names joined by dots ("eeg.imagery_left"). Each may be a wildcard
("*_eeg*"), and cells on the way are walked through. Attributes of HDF5 groups are members called
`@name`.

Source: scipy.io for version 5; version 7.3 is HDF5 with the axes of every array reversed.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.compat import optional
from neurofm.io.integrity import check_file

_HDF5 = b"\x89HDF"


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
    return [item for name in fitting(tree, head) for item in find(tree[name], rest)]


def fitting(tree: Mapping[str, Any], pattern: str) -> list[str]:
    """Names in a mapping that fit a wildcard, numbers in them in their order."""
    return sorted((name for name in tree if fnmatch.fnmatchcase(name, pattern)), key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]


@contextmanager
def open_mat(path: Path) -> Iterator[Mapping[str, Any]]:
    """Variables of a MATLAB or HDF5 file: structures as mappings, cells as lists, else arrays.

    Inside the block, what an HDF5 file holds is read when it is asked for.

    Raises:
        ValueError: Not a MATLAB or HDF5 file, or damaged.
    """
    check_file(path)
    try:
        if _is_hdf5(path):
            h5py = optional("h5py")
            with h5py.File(path, "r") as file:
                yield _Group(h5py, file, file)
        else:
            yield _read_version5(path)
    except (OSError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: not a MATLAB file, or damaged ({type(error).__name__}: {error}). Fetch it "
            "again."
        ) from error


def _is_hdf5(path: Path) -> bool:
    """Version 7.3 files have a header of 512 bytes in front."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(512)
        return _HDF5 in (start, file.read(4))


def _read_version5(path: Path) -> dict[str, Any]:
    import scipy.io

    try:
        found = scipy.io.loadmat(path)
    except (scipy.io.matlab.MatReadError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path}: not a MATLAB file, or damaged ({error}). Fetch it again."
        ) from error
    return {k: _plain(v) for k, v in found.items() if not k.startswith("__")}


def _plain(value: Any) -> Any:
    """scipy's nested values, no axis lost: structures as dicts, cells and texts as lists."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.names is not None:
        items = value.ravel(order="F")
        made = [{name: _plain(item[name]) for name in value.dtype.names} for item in items]
        return made[0] if len(made) == 1 else made
    if value.dtype == object:
        return [_plain(item) for item in value.ravel(order="F").tolist()]
    if value.dtype.kind == "U":
        return [str(item).rstrip() for item in value.ravel().tolist()]
    return value


class _Group(Mapping[str, Any]):
    """A group of an HDF5 file whose members are read on access."""

    def __init__(self, h5py: Any, file: Any, group: Any) -> None:
        self._h5py, self._file, self._group = h5py, file, group

    def __getitem__(self, name: str) -> Any:
        if name.startswith("@"):
            value = self._group.attrs[name[1:]]
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return _value(self._h5py, self._file, self._group[name])

    def __iter__(self) -> Iterator[str]:
        names = [name for name in self._group if name != "#refs#"]
        return iter([*names, *(f"@{name}" for name in self._group.attrs)])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _value(h5py: Any, file: Any, item: Any) -> Any:
    if isinstance(item, h5py.Group):
        return _Group(h5py, file, item)
    matlab = item.attrs.get("MATLAB_class")
    if item.attrs.get("MATLAB_empty"):
        return np.zeros(0)
    if item.dtype == h5py.ref_dtype:
        # Axes are reversed, so that rows here are columns in MATLAB.
        return [_value(h5py, file, file[cell]) for cell in np.ravel(item[()]).tolist()]
    value = item[()]
    if matlab in (b"char", "char"):
        return "".join(chr(int(code)) for code in np.ravel(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind in "OS":
        texts = value.ravel().tolist()
        return [t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in texts]
    return value.T if matlab is not None else value


def text_of(value: Any) -> str:
    """A label as text: 2.0 is "2"."""
    return value if isinstance(value, str) else f"{float(value):g}"


def keys_of(record: Any) -> list[str]:
    """Names in a structure; none in anything else."""
    return list(record) if isinstance(record, Mapping) else []


def flat(value: Any) -> list[Any]:
    """The single values in nested lists and arrays, and in a text with commas."""
    if isinstance(value, str) and "," in value:
        return [part.strip() for part in value.split(",")]
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in flat(part)]
    if isinstance(value, np.ndarray):
        return [item for part in value.ravel().tolist() for item in flat(part)]
    return [value]
