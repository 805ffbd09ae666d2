"""`neurofm benchmark SUITE`: compare methods on the same people, windows and labels.

Every cell (data set, fold of a protocol, method, weights, way of reading, share of labels, seed)
leaves one record; the same command continues where it was stopped. Then table, figure and report
are made of the records.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from neurofm import cards


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which suite, how much of it, where, and with how many processes."""
    shipped = sorted(file.stem for file in (cards.root("recipes") / "benchmarks").glob("*.yaml"))
    parser.add_argument(
        "suite", help=f"{', '.join(shipped)}; or a YAML file of your own (`neurofm copy`)"
    )
    parser.add_argument(
        "--methods", "--models", nargs="+", metavar="NAME", help="only these methods"
    )
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="only these data sets")
    parser.add_argument("--protocols", nargs="+", metavar="NAME", help="only these protocols")
    parser.add_argument(
        "--subjects",
        nargs="+",
        metavar="ID",
        help="these people of the corpora in place of the card's, such as 13 14; --out is then "
        "runs/benchmarks/SUITE-subjects-13-14",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="only the first N seeds")
    parser.add_argument(
        "--validation",
        action="store_true",
        help="score what is kept for choosing settings, not the test windows; --out is then "
        "runs/benchmarks/SUITE-validation",
    )
    parser.add_argument(
        "--out", type=Path, help="folder of records, table and figure (runs/benchmarks/SUITE)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="folder of pretrained weights and unfinished records (that of --out)",
    )
    parser.add_argument(
        "--executor",
        choices=("inprocess", "processes", "dask"),
        default="processes",
        help="where to run, as in `neurofm prepare`",
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster, or its scheduler file"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes of one thread (one per core)"
    )
    parser.add_argument(
        "--draw", action="store_true", help="make table and figure of the records there are"
    )


def run(args: argparse.Namespace) -> int:
    """Run what has no record yet, then write table, figure and report."""
    # Only here: these load torch and lightning, which `neurofm benchmark --help` should not.
    from neurofm.cli.benchmark.running import run_suite

    return run_suite(args)
