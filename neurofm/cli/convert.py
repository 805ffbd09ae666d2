"""`neurofm convert`: turn a published checkpoint into one of ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from neurofm.io.conversion import Conversion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Turn a published checkpoint into a safetensors file that neurofm.load_model reads. Every "
        "tensor must find its place, and the account names each; nothing but tensors is read from "
        "the file, and nothing is written unless all fit."
    )
    parser.add_argument("file", type=Path, metavar="UPSTREAM_FILE", help=".pt or .safetensors")
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="model card (`neurofm list models`)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.safetensors", help="file to write; NAME.safetensors here"
    )


def run(args: argparse.Namespace) -> int:
    """Convert and say what became of every tensor."""
    from neurofm.io import ConversionError, convert_checkpoint  # torch, which --help does not need

    console = Console(soft_wrap=True)
    out = args.out or Path(f"{Path(args.model).stem}.safetensors")
    if args.out is None and out.exists():
        raise ValueError(f"{out} exists already. Name a file with --out.")
    try:
        found = convert_checkpoint(args.file, args.model, out)
    except ConversionError as error:
        _print(console, error.account)
        raise
    _print(console, found)
    console.print(f"Wrote {found.path}. Load it with neurofm.load_model({str(found.path)!r}).")
    return 0


def _print(console: Console, found: Conversion) -> None:
    """Numbers first, then every name."""
    table = Table("tensors", "number")
    table.add_row("used", str(len(found.used)))
    table.add_row("unused: computed by the model", str(len(found.unused)))
    table.add_row("missing", str(len(found.missing)))
    if not found.complete:
        table.add_row("unknown", str(len(found.unknown)))
        table.add_row("of another shape", str(len(found.misshapen)))
    console.print(table)
    lines = [f"used: {name}" for name in found.used]
    lines += [f"unused: {name}" for name in found.unused]
    lines += [f"missing: {name} {shape}" for name, shape in found.missing]
    lines += [f"unknown: {name} {shape}" for name, shape in found.unknown]
    lines += [f"of another shape: {n} {has} instead of {own}" for n, has, own in found.misshapen]
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False)
