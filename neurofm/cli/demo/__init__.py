"""`neurofm demo`: the whole way on real or simulated EEG, ending in one page.

Data check and split audit, tokenizer, masked pretraining, linear probe and fine-tuning beside
classical baselines on the same folds, explanation, report. The hyperparameters are those of the
shipped recipes, so every step can be repeated with `neurofm fit --config ...`.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the demo; none is needed."""
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch three people of PhysioNet EEGMMIDB (about 25 MB) if no recordings are there",
    )
    parser.add_argument(
        "--simulate", action="store_true", help="use the simulation even if recordings are there"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="folder of the report (runs/demo)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, masks and orders (0)")


def run(args: argparse.Namespace) -> int:
    """Run all steps and print a dozen lines."""
    # Only here: these load torch and lightning, which `neurofm demo --help` should not.
    from neurofm.cli.demo.steps import run_demo

    return run_demo(args)
