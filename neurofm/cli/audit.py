"""`neurofm audit`: what leaks between training and test, in a table of your own."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from neurofm.data.audit import REMEDY, Leak, leaks_of
from neurofm.data.audit_csv import COLUMNS, Table, read_table
from neurofm.data.rows import ENTITIES
from neurofm.io.seen import Seen

# What can be looked for, and the columns it takes.
_NEEDS = {
    "subject": ("subject",),
    "session": ("session",),
    "recording": ("recording",),
    "overlapping time": ("recording", "start"),
    "stimulus": ("stimulus",),
    "duplicate recordings": ("fingerprint",),
    "fitted preprocessing": ("fitted_on",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Find leakage in a table with one row per window or recording. Columns, all optional but "
        "one: "
        + ", ".join(COLUMNS)
        + ". side says train, validate or test; fitted_on names what was fitted on a row (scaler; "
        "alignment)."
    )
    parser.add_argument("table", type=Path, help="CSV or TSV file with a header line")
    parser.add_argument(
        "--by",
        choices=(*ENTITIES, "time"),
        help="what must not be on two sides (subject, if the table has that column)",
    )
    parser.add_argument(
        "--allow",
        nargs="+",
        default=[],
        choices=tuple(REMEDY),
        metavar="KIND",
        help=f"kinds of leak to accept: {', '.join(REMEDY)}",
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=YOURS",
        help="a column with another name, such as subject=pid; may be repeated",
    )
    parser.add_argument(
        "--pretrained",
        type=Path,
        metavar="CHECKPOINT",
        help=".safetensors or .ckpt of a model whose training recordings must not be tested",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Audit; 0 if nothing leaks, 1 if something does."""
    table = read_table(args.table, renamed=_renamed(args.column))
    by = args.by or _by(table)
    if by != "time" and by not in table.has and not (by == "recording" and "run" in table.has):
        raise ValueError(f"{args.table}: --by {by}, but there is no column {by}.")
    seen = _seen(args.pretrained)
    found = _audit(table, by, seen)
    leaks = [leak for leak in found if leak.kind not in args.allow]
    if args.json:
        json.dump(_document(table, by, leaks, seen), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _show(table, by, leaks, seen, str(args.table))
    return int(bool(leaks))


def _renamed(pairs: list[str]) -> dict[str, str]:
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(f"--column {wrong[0]}: expected OURS=YOURS, such as subject=pid.")
    return dict(pair.split("=", 1) for pair in pairs)


def _by(table: Table) -> str:
    """The widest entity that the table knows."""
    return next((name for name in ENTITIES if name in table.has), "time")


def _seen(path: Path | None) -> Seen | None:
    if path is None:
        return None
    # torch is loaded for this alone.
    from neurofm.io.tensors import read_seen

    seen = read_seen(path)
    if not len(seen):
        raise ValueError(
            f"{path}: does not say which recordings its model was trained on. Files of neurofm's "
            "own training do; for a published model compare with what its authors list."
        )
    return seen


def _audit(table: Table, by: str, seen: Seen | None) -> list[Leak]:
    """Leaks between sides; of a table without sides, copies within it and overlap with a model."""
    if table.sides:
        return leaks_of(table.columns, table.sides, by=by, fitted=table.fitted, seen=seen)
    every = np.arange(len(table.columns))
    leaks = [
        leak
        for leak in leaks_of(table.columns, {"table": every, "itself": every}, by="time")
        if leak.kind == "duplicate"
    ]
    if seen is not None:
        leaks += leaks_of(table.columns, {"test": every}, by=by, seen=seen)
    return leaks


def _missing(table: Table) -> list[str]:
    """What was not looked for, because columns are missing."""
    has = set(table.has) | ({"recording"} if {"run", "session"} & set(table.has) else set())
    return [
        f"{what} ({', '.join(sorted(set(needs) - has))})"
        for what, needs in _NEEDS.items()
        if not set(needs) <= has
    ]


def _document(table: Table, by: str, leaks: list[Leak], seen: Seen | None) -> dict[str, Any]:
    return {
        "rows": len(table.columns),
        "by": by,
        "sides": {name: len(members) for name, members in table.sides.items()},
        "pretrained_on": None if seen is None else len(seen),
        "not_looked_for": _missing(table),
        "notes": list(table.notes),
        "leaks": [{**vars(leak), "remedy": leak.remedy} for leak in leaks],
    }


def _show(table: Table, by: str, leaks: list[Leak], seen: Seen | None, name: str) -> None:
    console = Console()
    sizes = ", ".join(f"{side} {len(members)}" for side, members in table.sides.items())
    console.print(
        f"{name}: {len(table.columns)} rows, {sizes or 'no sides'}; split by {by}"
        + ("" if seen is None else f"; model trained on {len(seen)} recordings"),
        highlight=False,
        soft_wrap=True,
    )
    notes = list(table.notes)
    if not table.sides:
        notes.append("no column side: only copies in the table were looked for")
    missing = _missing(table)
    if missing:
        notes.append(f"not looked for, columns missing: {'; '.join(missing)}")
    for note in notes:
        console.print(f"  note: {note}", highlight=False, soft_wrap=True, markup=False)
    if not leaks:
        console.print("[green]0 leaks[/green]")
        return
    grid = Grid("leak", "between", "count", "such as", "remedy")
    for leak in leaks:
        grid.add_row(
            leak.kind, f"{leak.left} / {leak.right}", str(leak.count), leak.example, leak.remedy
        )
    console.print(grid)
    console.print(f"[red]{len(leaks)} leak{'s' * (len(leaks) != 1)}[/red]")
