"""`neurofm export`: a fine-tuned decoder as one file that runs without neurofm."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Write a fine-tuned run of `Decode` as TorchScript, torch.export or ONNX: windows of "
        "`batch channel time` in, probabilities out, for fixed channels, rate and window. The "
        "file is compared with the run before it is kept. models/README.md says how to load it."
    )
    parser.add_argument("run", metavar="RUN", help="folder below runs/, checkpoint, or recipe")
    parser.add_argument(
        "--format", choices=("torchscript", "onnx", "torch"), required=True, help="kind of file"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="NAME.pt, .onnx or .pt2 here")
    parser.add_argument(
        "--like", metavar="FILE", help="recording with its channels; the first of the data set"
    )
    parser.add_argument("--dataset", help="of several in the recipe, whose preprocessing is used")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest difference of a probability (1e-4)"
    )


def run(args: argparse.Namespace) -> int:
    """Export, and say how close the file is.

    Raises:
        ValueError: The model cannot be exported so, or the file differs from it.
    """
    from neurofm.live import example_head, export_decoder, load_decoder
    from neurofm.live.exported import SUFFIXES

    decoder = load_decoder(args.run, dataset=args.dataset)
    out = args.out or Path(f"{decoder.facts.name}{SUFFIXES[args.format]}")
    if args.out is None and out.exists():
        raise ValueError(f"{out} exists already. Name a file with --out.")
    head = example_head(decoder.facts, args.like)
    found = export_decoder(decoder, out, format=args.format, head=head, tolerance=args.tolerance)
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"Wrote {found.path}: probabilities of {', '.join(decoder.facts.labels)}; differs from the "
        f"run by at most {found.difference:.2g}, where windows are up to {found.spread:.2g} apart"
        f"{'' if found.any_batch else '; one window at a time'}.",
        markup=False,
    )
    return 0
