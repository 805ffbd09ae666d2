"""`neurofm convert`: turn a published checkpoint into one of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Turn a published checkpoint into a safetensors file that neurofm.load_model reads. Every "
        "tensor must find its place; nothing but tensors is read from the file."
    )
    parser.add_argument("file", type=Path, metavar="UPSTREAM_FILE", help=".pt or .safetensors")
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="model card (`neurofm list models`)"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE.safetensors", help="file to write"
    )


def run(args: argparse.Namespace) -> int:
    """Convert and say what became of every tensor."""
    from neurofm.io import convert_checkpoint  # loads torch, which --help does not need

    found = convert_checkpoint(args.file, args.model, args.out)
    table = Table("tensors", "number")
    table.add_row("used", str(len(found.used)))
    table.add_row("unused: computed by the model", str(len(found.unused)))
    table.add_row("missing", "0")
    console = Console(soft_wrap=True)
    console.print(table)
    for key in found.unused:
        console.print(f"  unused: {key}", highlight=False)
    console.print(f"Wrote {found.path}. Load it with neurofm.load_model({str(found.path)!r}).")
    return 0
