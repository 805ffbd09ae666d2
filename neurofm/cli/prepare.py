"""`neurofm prepare`: preprocess a dataset once, into the store that training reads."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from neurofm import cards
from neurofm.data.keys import default_store_root
from neurofm.data.prepare import prepare_corpus
from neurofm.data.preprocess import build_steps
from neurofm.io import Store, open_corpus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Preprocess recordings once and keep them in a store, from which training reads. Run it "
        "again at any time: what is done is left alone, what changed is made anew."
    )
    parser.add_argument(
        "dataset",
        nargs="?",
        help="name of a dataset card (`neurofm list datasets`), or a card of your own",
    )
    parser.add_argument("--subjects", nargs="+", metavar="S", help="only these, such as 1 2 3")
    parser.add_argument("--runs", nargs="+", metavar="R", help="only these")
    parser.add_argument(
        "--config",
        metavar="RECIPE",
        help="take datasets, steps, subjects and runs from this recipe (a name or a YAML file)",
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of the recordings (else $NEUROFM_DATA)"
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="folder of stores (else $NEUROFM_STORE, else your cache folder)",
    )
    parser.add_argument(
        "--dtype",
        choices=("int16", "float32"),
        help="int16 takes half the space and rounds by at most half a step (default)",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first bad recording")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Prepare; 0 if every recording could be prepared, 1 if some could not."""
    logging.getLogger("neurofm").setLevel(logging.ERROR)  # the table below says it
    recipe = _recipe(args.config) if args.config else {}
    datasets = [args.dataset] if args.dataset else list(recipe.get("datasets") or [])
    if not datasets:
        raise ValueError("neurofm prepare: name a dataset, or a recipe with --config.")
    console = Console()
    bad = 0
    for name in datasets:
        corpus = open_corpus(name, root=args.root or _path(recipe.get("root")))
        steps = build_steps(recipe.get("preprocess"), line_freq=corpus.line_freq)
        folder = prepare_corpus(
            corpus,
            steps,
            args.store or _path(recipe.get("store")) or default_store_root(),
            subjects=args.subjects or recipe.get("subjects"),
            runs=args.runs or recipe.get("runs"),
            dtype=args.dtype or recipe.get("dtype") or "int16",
            progress=not args.quiet,
            strict=args.strict,
        )
        store = Store(folder)
        hours = sum(entry.duration for entry in store.entries) / 3600
        size = sum(entry.n_bytes for entry in store.entries) / 1e6
        console.print(
            f"{name}: {len(store)} recordings, {hours:.2f} h, {size:.1f} MB in {folder}",
            highlight=False,
            soft_wrap=True,
        )
        bad += _print_problems(console, folder)
    return 1 if bad else 0


def _print_problems(console: Console, folder: Path) -> int:
    path = folder / "problems.json"
    if not path.is_file():
        return 0
    problems: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["problems"]
    console.print(f"{len(problems)} recordings could not be prepared:", highlight=False)
    for name, reason in problems.items():
        console.print(f"  {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    return len(problems)


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


def _recipe(name: str) -> dict[str, Any]:
    """`data.init_args` of a recipe, read as plain YAML."""
    try:
        document = cards.read("recipes", name)
    except FileNotFoundError:
        if not Path(name).is_file():
            raise
        document = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    data = document.get("data") or {}
    arguments = data.get("init_args") or {}
    if not isinstance(arguments, dict) or not (arguments.get("datasets")):
        raise ValueError(
            f"{name}: no `data.init_args.datasets`, so this recipe does not say what to prepare."
        )
    return arguments
