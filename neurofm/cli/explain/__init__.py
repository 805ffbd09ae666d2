"""`neurofm explain RUN`: what a fine-tuned model looks at, and when the information is there.

Held-out windows of the run itself; the pages are kept in the run's folder, where `neurofm report`
finds them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT = ("evidence", "bands", "filters", "moments", "layers")
METHODS = (*DEFAULT, "patching", "sparse", "synthesis", "familiar")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and how much of it."""
    parser.description = (
        "Explain a run of Decode on windows it was not trained on. evidence: integrated gradients "
        "over scalp and time, with their checks. bands: what the decision loses without a "
        "frequency band. filters: patterns of the first spatial layer. moments: linear decoding "
        "at every moment of the same windows, and from moment to moment, beside the model. layers: "
        "which layer knows the class, beside random weights and the signal. patching: which layers "
        "and parts of them carry the decision. sparse: a dictionary of the last layer and its "
        "latents that matter most. synthesis: signals that each class wants most. familiar: are "
        "held-out recordings like those of the training."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder or checkpoint of the run")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=(*METHODS, "all"),
        default=list(DEFAULT),
        help=f"only these; all is everything ({' '.join(DEFAULT)})",
    )
    parser.add_argument(
        "--sites",
        nargs="+",
        metavar="SITE",
        help="layers to look into, such as blocks.0 (the entries of the longest list of layers)",
    )
    parser.add_argument(
        "--windows", type=int, default=96, metavar="N", help="at most N held-out windows (96)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of windows (0)")
    parser.add_argument("--out", type=Path, help="folder of the pages (RUN/explain)")


def run(args: argparse.Namespace) -> int:
    """Compute, write the pages, say where they are."""
    # Only here: these load torch.
    from neurofm.cli.explain.pages import explain_run

    return explain_run(args)
