"""`neurofm prepare`: preprocess a dataset once, into the store that training reads.

One core, all cores of a machine, or a Dask cluster: the same work, the same bytes.
"""

from __future__ import annotations

import argparse
import logging
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console

from neurofm import cards
from neurofm.data.preparing.executors import EXECUTORS
from neurofm.data.preparing.keys import default_store_root
from neurofm.data.preparing.preparation import MEMORY
from neurofm.data.preparing.prepare import prepare_corpus
from neurofm.data.preparing.problems import PROBLEMS, read_problems
from neurofm.data.steps.preprocess import build_steps, default_steps
from neurofm.io import Store, open_corpus

_LISTED = 20  # problems that are printed


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
    add_workplace(parser)
    parser.add_argument(
        "--memory",
        type=size,
        default=MEMORY,
        metavar="BYTES",
        help="memory for samples per worker, such as 500MB; held to by readers that can read some "
        "channels at a time, plus 50 MB and 0.4 kB for each channel (default: 2GB)",
    )


def add_workplace(parser: argparse.ArgumentParser) -> None:
    """Declare where work is done, and how it is watched."""
    parser.add_argument(
        "--executor",
        choices=EXECUTORS,
        help="where to work: in this process (default), in processes of this machine, on a Dask "
        "cluster; what is written is the same",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on this machine (all cores if not given; implies --executor processes); "
        "with --scheduler, the size to which the cluster may grow",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler: tcp://host:8786, or its scheduler file (implies --executor dask)",
    )
    parser.add_argument(
        "--rehash",
        action="store_true",
        help="read every file again, instead of those alone whose size or times changed",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first bad recording")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def size(text: str) -> int:
    """Bytes of a size such as "500MB", "2GB", "1.5 GiB" or "1000000".

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?\s*", text)
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 2GB")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " KMGT".index(found[2].upper() or " "))


def run(args: argparse.Namespace) -> int:
    """Prepare; 0 if every recording could be prepared, 1 if some could not."""
    log = logging.getLogger("neurofm")
    level = log.level
    log.setLevel(logging.ERROR)  # the table below says it
    try:
        return _run(args)
    finally:
        log.setLevel(level)


def _run(args: argparse.Namespace) -> int:
    recipe = data_of(args.config, read_recipe(args.config)) if args.config else {}
    datasets = [args.dataset] if args.dataset else list(recipe.get("datasets") or [])
    if not datasets:
        raise ValueError("neurofm prepare: name a dataset, or a recipe with --config.")
    executor = executor_of(args)
    console = Console()
    bad = 0
    for name in datasets:
        folder = prepared(args, recipe, name, executor=executor)
        store = Store(folder)
        hours = float((store.columns.n_times / store.columns.sfreq).sum()) / 3600
        megabytes = int(store.columns.n_bytes.sum()) / 1e6
        console.print(
            f"{name}: {len(store)} recordings, {hours:.2f} h, {megabytes:.1f} MB in {folder}",
            highlight=False,
            soft_wrap=True,
        )
        bad += print_problems(console, folder, "prepared")
    return 1 if bad else 0


def prepared(args: argparse.Namespace, recipe: dict[str, Any], name: str, *, executor: str) -> Path:
    """Prepare a dataset by the options, and by the recipe where they are silent; its store."""
    corpus = open_corpus(name, root=args.root or path_or_none(recipe.get("root")))
    specs = of_dataset(recipe.get("preprocess"), corpus.name)
    steps = build_steps(
        default_steps(corpus.card.get("modality")) if specs is None else specs,
        line_freq=corpus.line_freq,
    )
    with terminated_like_interrupted():
        return prepare_corpus(
            corpus,
            steps,
            args.store or path_or_none(recipe.get("store")) or default_store_root(),
            subjects=args.subjects or of_dataset(recipe.get("subjects"), corpus.name),
            runs=args.runs or of_dataset(recipe.get("runs"), corpus.name),
            dtype=args.dtype or recipe.get("dtype") or "int16",
            progress=not args.quiet,
            strict=args.strict,
            executor=executor,
            workers=args.workers,
            scheduler=args.scheduler,
            memory=args.memory,
            rehash=args.rehash,
        )


def print_problems(console: Console, folder: Path, done: str) -> int:
    """List the recordings in quarantine; how many there are."""
    problems = read_problems(folder)
    if problems:
        console.print(
            f"{len(problems)} recording{'s' if len(problems) > 1 else ''} could not be {done}; "
            f"{folder / PROBLEMS} says more:",
            highlight=False,
            soft_wrap=True,
        )
    for name, reason in list(problems.items())[:_LISTED]:
        console.print(f"  {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if len(problems) > _LISTED:
        console.print(f"  and {len(problems) - _LISTED} more")
    return len(problems)


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which batch systems send before they kill, ends the run as Ctrl-C does: sealed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def of_dataset(given: Any, name: str) -> Any:
    """The value of a recipe's option for a dataset; a mapping has one for each."""
    return given.get(name) if isinstance(given, dict) else given


def path_or_none(value: str | None) -> Path | None:
    """A path of a recipe."""
    return None if value is None else Path(value)


def executor_of(args: argparse.Namespace) -> str:
    """The executor that is meant by the options."""
    if args.executor is not None:
        return str(args.executor)
    if args.scheduler is not None:
        return "dask"
    return "inprocess" if args.workers in (None, 1) else "processes"


def read_recipe(name: str) -> dict[str, Any]:
    """A shipped recipe or a file, as plain YAML."""
    try:
        return cards.read("recipes", name)
    except FileNotFoundError:
        if not Path(name).is_file():
            raise
        document: dict[str, Any] = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        return document


def data_of(name: str, document: dict[str, Any]) -> dict[str, Any]:
    """`data.init_args` of a recipe."""
    data = document.get("data") or {}
    arguments = data.get("init_args") or {}
    if not isinstance(arguments, dict) or not (arguments.get("datasets")):
        raise ValueError(
            f"{name}: no `data.init_args.datasets`, so this recipe does not say what to prepare."
        )
    return arguments
