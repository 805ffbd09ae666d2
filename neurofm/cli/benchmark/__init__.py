"""`neurofm benchmark SUITE`: compare methods on the same people, windows and labels.

Every cell (data set, fold of a protocol, method, weights, way of reading, share of labels, seed)
leaves one record; the same command continues where it was stopped. Then table, figure and report
are made of the records.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which suite, how much of it, where, and with how many processes."""
    parser.add_argument("suite", help="NAME of a suite (recipes/benchmarks), or your own YAML file")
    parser.add_argument(
        "--methods", "--models", nargs="+", metavar="NAME", help="only these methods"
    )
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="only these data sets")
    parser.add_argument("--protocols", nargs="+", metavar="NAME", help="only these protocols")
    parser.add_argument("--seeds", type=int, metavar="N", help="only the first N seeds")
    parser.add_argument(
        "--validation",
        action="store_true",
        help="score what is kept for choosing settings, not the test windows",
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
