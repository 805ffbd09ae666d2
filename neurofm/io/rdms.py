"""Dissimilarity matrices out of MATLAB files, such as those of the 92-image data sets.

A file holds structs with a field `RDM` (a square matrix, or its upper triangle as a vector) and
often `name`, or plain square matrices. MATLAB's `pdist` order of a vector is the upper triangle by
rows, the order of `types.RDM`.

Source: the RDM structs of the rsatoolbox for MATLAB (Nili et al. 2014).
Axes: condition x condition; pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.io.quality import listed
from neurofm.io.spiking.spike_mat import load_mat
from neurofm.types import RDM

_TOLERANCE = 1e-6  # of the largest value: what float32 and text exports leave of symmetry


def read_rdms(path: Path | str, *, metric: str = "unknown") -> dict[str, RDM]:
    """All dissimilarity matrices of a file, by name, in its order.

    Args:
        path: MATLAB file up to version 7.
        metric: What the dissimilarity is; the files do not say.

    Returns:
        Conditions are labelled by their number, from "1". A name that comes again gets its number:
        "V1", "V1 (2)".

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: Not such a file, without dissimilarities, or one that is not square, not
            symmetric, not zero on its diagonal, or not finite.
    """
    path = Path(path)
    content = load_mat(path)
    found: dict[str, RDM] = {}
    for variable, value in content.items():
        for name, matrix in _candidates(variable, value):
            upper = _upper(matrix, f"{path}: {name}")
            n = round((1 + np.sqrt(1 + 8 * len(upper))) / 2)
            unique, count = name, 1
            while unique in found:
                count += 1
                unique = f"{name} ({count})"
            found[unique] = RDM(upper, tuple(str(i + 1) for i in range(n)), metric)
    if not found:
        raise ValueError(
            f"{path}: no dissimilarities: no struct with a field RDM and no square matrix that is "
            f"symmetric with a zero diagonal. Its variables are {listed(list(content)) or 'none'}."
        )
    return found


def describe_rdms(path: Path | str) -> list[str]:
    """One line for each dissimilarity matrix of a file; raises as `read_rdms`."""
    return [
        f"{name}: {len(rdm.labels)} conditions, {len(rdm.values)} pairs, "
        f"{rdm.values.min():.3g} to {rdm.values.max():.3g}"
        for name, rdm in read_rdms(path).items()
    ]


def _candidates(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    if not isinstance(value, np.ndarray) or not value.size:
        return
    if value.dtype.names:
        fields = {field.casefold(): field for field in value.dtype.names}
        # By rows, as a table is read; MATLAB's own order is by columns.
        for i, item in enumerate(value.ravel(), 1):
            own = f"{name} {i}" if value.size > 1 else name
            if "name" in fields and (text := _text(item[fields["name"]])):
                own = text
            if "rdm" in fields:
                yield own, np.asarray(item[fields["rdm"]])
    elif value.dtype == object:
        for i, item in enumerate(value.ravel(), 1):
            yield from _candidates(f"{name} {i}" if value.size > 1 else name, item)
    elif _looks_like_one(value):
        yield name, value


def _looks_like_one(value: np.ndarray) -> bool:
    """A plain matrix is one only if nothing speaks against it; images and masks are not."""
    if value.ndim != 2 or value.shape[0] != value.shape[1] or len(value) < 3:
        return False
    if not np.issubdtype(value.dtype, np.number) or np.iscomplexobj(value):
        return False
    numbers = value.astype(np.float64)
    return bool(
        np.isfinite(numbers).all()
        and numbers.any()
        and not np.diag(numbers).any()
        and np.allclose(numbers, numbers.T)
    )


def _upper(value: np.ndarray, where: str) -> np.ndarray:
    if not (np.issubdtype(value.dtype, np.number) or value.dtype == bool) or np.iscomplexobj(value):
        raise ValueError(f"{where}: the RDM is of type {value.dtype}, expected numbers.")
    matrix = value.astype(np.float64)
    if matrix.ndim == 2 and 1 in matrix.shape and matrix.size > 1:
        matrix = matrix.ravel()
    if matrix.ndim == 1:
        n = round((1 + np.sqrt(1 + 8 * len(matrix))) / 2)
        if n < 2 or n * (n - 1) // 2 != len(matrix):
            raise ValueError(
                f"{where}: a vector of {len(matrix)} values is not the triangle of a square "
                f"matrix; {n} conditions have {n * (n - 1) // 2}."
            )
        upper = matrix
    else:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
            raise ValueError(f"{where}: the RDM has shape {value.shape}, expected a square matrix.")
        reach = _TOLERANCE * max(float(np.nanmax(np.abs(matrix), initial=0.0)), 1e-300)
        off = np.abs(np.diag(matrix)).max()
        if off > reach:
            raise ValueError(
                f"{where}: the diagonal reaches {off:.3g}, expected 0. Is it a similarity? Use 1 "
                "minus it."
            )
        skew = np.nanmax(np.abs(matrix - matrix.T), initial=0.0)
        if skew > reach:
            raise ValueError(f"{where}: the RDM is not symmetric (differences up to {skew:.3g}).")
        upper = matrix[np.triu_indices(len(matrix), 1)]
    if not np.isfinite(upper).all():
        raise ValueError(
            f"{where}: {int((~np.isfinite(upper)).sum())} of {len(upper)} dissimilarities are NaN "
            "or infinite. Leave those conditions out."
        )
    return upper


def _text(value: Any) -> str:
    array = np.asarray(value)
    while array.dtype == object and array.size == 1:
        array = np.asarray(array.ravel()[0])
    return str(array.ravel()[0]).strip() if array.size == 1 and array.dtype.kind in "US" else ""
