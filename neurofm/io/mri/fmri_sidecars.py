"""What lies beside a functional image: its repetition time, and tables of confounds.

Source: BIDS 1.10 (RepetitionTime), fMRIPrep's table of confounds.
Axes: channel = confound, time = volume.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.io.integrity import check_file
from neurofm.io.quality import Problem, listed, matches, report
from neurofm.io.sidecars import MISSING, read_table
from neurofm.shapes import Float

TR_SOURCES = ("agree", "header", "sidecar", "card")
# Columns of fMRIPrep's table that are taken if the card names none: its hundreds are no choice.
USUAL_CONFOUNDS = (
    "trans_[xyz]",
    "rot_[xyz]",
    "trans_[xyz]_derivative1",
    "rot_[xyz]_derivative1",
    "csf",
    "white_matter",
    "a_comp_cor_0[0-4]",
    "framewise_displacement",
    "non_steady_state_outlier*",
)


def repetition_time(
    header: tuple[float | None, str],
    *,
    sidecar: Mapping[str, Any] | None,
    card: float | None,
    source: str = "agree",
    where: str,
) -> float:
    """Seconds between volumes, by the header, the sidecar and the card, which must agree.

    Args:
        header: Seconds as the image's header says, or None; and what is doubtful about it, or "".
        sidecar: BIDS sidecar with `RepetitionTime` in seconds.
        card: What the dataset card declares.
        source: One of `TR_SOURCES`; other than "agree", that one is believed.

    Raises:
        ValueError: They disagree, or none of them says; the message names all values.
    """
    if source not in TR_SOURCES:
        raise ValueError(f"tr_from is {source!r}, expected one of {', '.join(TR_SOURCES)}.")
    stored, doubt = header
    declared = None if sidecar is None else sidecar.get("RepetitionTime")
    if declared is not None and not _is_time(declared):
        raise ValueError(
            f"{where}: the sidecar's RepetitionTime is {declared!r}, expected seconds above 0."
        )
    if card is not None and not _is_time(card):
        raise ValueError(f"{where}: the card's tr_s is {card!r}, expected seconds above 0.")
    said = {"header": stored, "sidecar": declared, "card": card}
    known = {name: float(value) for name, value in said.items() if value is not None}
    if source != "agree":
        if source not in known:
            raise ValueError(f"{where}: tr_from is {source}, which gives no TR.")
        return known[source]
    if doubt and set(known) - {"header"}:
        known.pop("header", None)  # a value without a unit, or none, is no witness
        doubt = ""
    if not known:
        raise ValueError(
            f"{where}: no repetition time: {doubt or 'the file holds none'}, and neither a "
            "sidecar (`RepetitionTime` in seconds) nor the card (`tr_s`) gives it. Declare it in "
            "one of them."
        )
    if max(known.values()) - min(known.values()) > 1e-3 * max(known.values()):
        words = ", ".join(f"{name} {value:g} s" for name, value in known.items())
        raise ValueError(
            f"{where}: the repetition time is not the same everywhere: {words}. Correct what is "
            "wrong, or say which one to believe (`tr_from: header`, `sidecar` or `card`)."
        )
    if doubt:
        report(
            Problem("warning", f"TR: {doubt}.", "Declare it as `tr_s` in the card.", "tr_unit"),
            where,
        )
    return next(known[name] for name in ("sidecar", "card", "header") if name in known)


def _is_time(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0


def read_confounds(
    path: Path, n_times: int, *, columns: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Float[np.ndarray, "channel time"]]:
    """Confound time courses of one run.

    A table with a header (fMRIPrep), or plain columns of numbers (motion parameters of FSL, SPM or
    AFNI), which are called `column-1`, `column-2`, ... Missing values at the start, where a
    derivative has none, become the first one there is.

    Args:
        n_times: Volumes of the image.
        columns: Names or wildcards; for plain columns, the names to give them. If not given, all,
            or of an fMRIPrep table the usual ones (`USUAL_CONFOUNDS`).

    Raises:
        ValueError: Another number of rows than volumes, a column that is not there, or a value that
            is not a number.
    """
    check_file(path)
    if path.suffix.lower() == ".tsv" or _has_header(path):
        names, table = _table(path)
        chosen = _choose(path, names, columns)
    else:
        try:
            table = np.loadtxt(path, ndmin=2).T
        except ValueError as error:
            raise ValueError(f"{path}: not columns of numbers ({error}).") from error
        names = [f"column-{i + 1}" for i in range(len(table))] if columns is None else list(columns)
        if len(names) != len(table):
            raise ValueError(
                f"{path}: {len(table)} columns, but {len(names)} names: {listed(names)}."
            )
        chosen = list(range(len(names)))
    if table.shape[1] != n_times:
        raise ValueError(
            f"{path}: {table.shape[1]} rows for {n_times} volumes. It belongs to another run, or "
            "volumes were cut from one of them."
        )
    return tuple(names[i] for i in chosen), _filled(path, table[chosen], [names[i] for i in chosen])


def _has_header(path: Path) -> bool:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        words = file.readline().split()
    return any(_number(word) is None for word in words)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _table(path: Path) -> tuple[list[str], np.ndarray]:
    columns = read_table(path)
    table = np.full((len(columns), max(map(len, columns.values()))), np.nan)
    for name, row in zip(columns, table, strict=True):
        for i, text in enumerate(columns[name]):
            if text.lower() in MISSING:
                continue
            value = _number(text)
            if value is None:
                raise ValueError(
                    f"{path}: {name} in row {i + 2} is {text!r}, expected a number or n/a."
                )
            row[i] = value
    return list(columns), table


def _choose(path: Path, names: list[str], columns: Sequence[str] | None) -> list[int]:
    if columns is not None:
        unknown = [c for c in columns if not any(matches(name, [c]) for name in names)]
        if unknown:
            raise ValueError(
                f"{path}: no column {listed(unknown)}; there are {listed(names, most=20)}."
            )
        return [i for i, name in enumerate(names) if matches(name, columns)]
    usual = [i for i, name in enumerate(names) if matches(name, USUAL_CONFOUNDS)]
    return usual or list(range(len(names)))


def _filled(path: Path, table: np.ndarray, names: list[str]) -> np.ndarray:
    """Missing values interpolated; those not at the start are worth a word."""
    table = table.copy()
    late, empty = [], []
    for name, row in zip(names, table, strict=True):
        known = np.isfinite(row)
        if not known.any():
            empty.append(name)
            row[:] = 0.0
        elif not known.all():
            if not known[int(np.argmax(known)) :].all():
                late.append(name)
            at = np.flatnonzero(known)
            row[:] = np.interp(np.arange(len(row)), at, row[at])
    for found, what in ((late, "have gaps, filled by interpolation"), (empty, "hold no number")):
        if found:
            report(
                Problem(
                    "warning",
                    f"{len(found)} of {len(names)} confounds {what}: {listed(found)}.",
                    "Choose columns with `confound_columns`.",
                    "confound_gaps",
                ),
                str(path),
            )
    return table
