"""`neurofm fetch DATASET`: download an open corpus into the folder its card names."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from neurofm.io.fetch import fetch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `neurofm fetch`."""
    parser.add_argument("name", metavar="DATASET", help="name of a dataset card with a `fetch`")
    parser.add_argument("--subjects", nargs="+", metavar="S", help="only these subjects")
    parser.add_argument("--runs", nargs="+", metavar="R", help="only these runs")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="where to put it ($NEUROFM_DATA by default)"
    )


def run(args: argparse.Namespace) -> int:
    """Fetch and say what is there now."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        tasks: dict[Path, TaskID] = {}

        def show(path: Path, done: int, total: int | None) -> None:
            if path not in tasks:
                tasks[path] = bar.add_task(path.name, total=total)
            bar.update(tasks[path], completed=done, total=total)

        paths = fetch(
            args.name, subjects=args.subjects, runs=args.runs, root=args.root, progress=show
        )
    total = sum(path.stat().st_size for path in paths)
    Console().print(
        f"{args.name}: {len(paths)} files, {total / 1e6:.1f} MB. `neurofm check {args.name}` looks "
        "at them.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0
