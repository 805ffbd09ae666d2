"""`neurofm tokenize`: the tokens of a corpus, made once and kept in a store for training on them.

Recordings are prepared as `neurofm prepare` does, if they are not yet. The recipe that will train
on the tokens says everything: datasets, windows, model with its tokenizer, and where tokens go.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from neurofm import cards
from neurofm.cli.prepare import (
    add_workplace,
    data_of,
    executor_of,
    of_dataset,
    prepared,
    print_problems,
    read_recipe,
    size,
    terminated_like_interrupted,
)
from neurofm.cli.store import readable
from neurofm.data.preparing.keys import default_store_root
from neurofm.data.preparing.preparation import MEMORY
from neurofm.data.table import RecordingTable
from neurofm.data.tokenized.identity import token_options
from neurofm.data.tokenized.making import tokenize_store
from neurofm.data.windows import AVOID
from neurofm.io import Store, load_model, load_tokenizer
from neurofm.io.stores.blocks import TOKENS
from neurofm.io.stores.inventory import is_store
from neurofm.io.stores.tokens import VALUE_TYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Make the tokens of windows once and keep them in a store, from which models are trained "
        "without the signal. Run it again at any time: what is done is left alone."
    )
    parser.add_argument(
        "dataset", nargs="*", help="names of dataset cards, or folders of prepared stores"
    )
    parser.add_argument(
        "--config",
        metavar="RECIPE",
        help="take everything that is not given here from this recipe: datasets, windows, model "
        "with its tokenizer, and `tokens`, where they go",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the model that will read them: a card, a file or a run; it says how its tokenizer "
        "is called",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="a trained tokenizer: a run, a file or a card with weights; with --model the one to "
        "build a card on",
    )
    parser.add_argument("--window_s", type=float, metavar="S", help="length of a window, seconds")
    parser.add_argument(
        "--stride_s", type=float, metavar="S", help="from one window to the next (its length)"
    )
    parser.add_argument(
        "--labels", nargs="+", metavar="L", help="cut windows at events with these labels instead"
    )
    parser.add_argument(
        "--offset_s", type=float, metavar="S", help="from an event to the start of its window"
    )
    parser.add_argument(
        "--values",
        choices=tuple(VALUE_TYPES),
        help="type of the tokens' vectors (default: none where codes give them back, else float16)",
    )
    parser.add_argument("--subjects", nargs="+", metavar="S", help="only these, such as 1 2 3")
    parser.add_argument("--runs", nargs="+", metavar="R", help="only these")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of the recordings (else $NEUROFM_DATA)"
    )
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="folder of prepared stores (as in prepare)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of stores of tokens (else that of --store)"
    )
    parser.add_argument("--dtype", choices=("int16", "float32"), help="of the prepared store")
    parser.add_argument("--memory", type=size, default=MEMORY, metavar="BYTES", help="in prepare")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: cpu")
    add_workplace(parser)


def run(args: argparse.Namespace) -> int:
    """Tokenize; 0 if every recording could be tokenized, 1 if some could not."""
    log = logging.getLogger("neurofm")
    level = log.level
    log.setLevel(logging.ERROR)  # the lines below say it
    try:
        return _run(args)
    finally:
        log.setLevel(level)


def _run(args: argparse.Namespace) -> int:
    document = read_recipe(args.config) if args.config else {}
    recipe = data_of(args.config, document) if args.config else {}
    datasets = args.dataset or list(recipe.get("datasets") or [])
    if not datasets:
        raise ValueError("neurofm tokenize: name a dataset, or a recipe with --config.")
    cut = _cut(args, recipe)
    tokenizer, options, source = _tokenizer(args, document)
    root = args.store or recipe.get("store") or default_store_root()
    out = Path(args.out or recipe.get("tokens") or root)
    console, bad = Console(), 0
    for name in datasets:
        executor = executor_of(args)
        folder = name if is_store(Path(name)) else prepared(args, recipe, name, executor=executor)
        store = Store(folder)
        subjects = args.subjects or of_dataset(recipe.get("subjects"), _dataset(store))
        runs = args.runs or of_dataset(recipe.get("runs"), _dataset(store))
        chosen = RecordingTable.of([store]).named(subjects=subjects, runs=runs).tolist()
        if not chosen:
            raise ValueError(f"{folder}: no recordings of subjects {subjects} and runs {runs}.")
        with terminated_like_interrupted():
            made = tokenize_store(
                store,
                tokenizer,
                out,
                options=options,
                source=source,
                values=args.values,
                recordings=chosen,
                cut=cut,
                device=args.device,
                progress=not args.quiet,
                strict=args.strict,
                executor=executor,
                workers=args.workers,
                scheduler=args.scheduler,
                rehash=args.rehash,
            )
        console.print(_summary(Store(made), store), highlight=False, markup=False, soft_wrap=True)
        bad += print_problems(console, made, "tokenized")
    return 1 if bad else 0


def _dataset(store: Store) -> str:
    return str(store.about.get("dataset", ""))


def _cut(args: argparse.Namespace, recipe: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `Windows`."""
    given: dict[str, Any] = {}
    for name in ("window_s", "stride_s", "labels", "offset_s", "avoid"):
        value = getattr(args, name, None)
        value = recipe.get(name) if value is None else value
        if value is not None:
            given[name] = value
    if "window_s" not in given:
        raise ValueError("neurofm tokenize: give --window_s, or a recipe that says it.")
    return {"avoid": AVOID, **given}


def _tokenizer(
    args: argparse.Namespace, document: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any], str]:
    """The tokenizer, how it is called, and where it came from."""
    if args.model is not None:
        _refuse_fresh(args.model, args.tokenizer)
        return _of_model(
            load_model(args.model, tokenizer=args.tokenizer),
            " on ".join(filter(None, (args.model, args.tokenizer))),
        )
    if args.tokenizer is not None:
        _refuse_fresh(args.tokenizer, None)
        found: Any = load_tokenizer(args.tokenizer)
        return found, {}, str(args.tokenizer)
    spec = ((document.get("model") or {}).get("init_args") or {}).get("model")
    if not isinstance(spec, dict):
        raise ValueError(
            "neurofm tokenize: say whose tokens: --model NAME, --tokenizer NAME, or a recipe that "
            "trains a model."
        )
    named = dict(spec.get("init_args") or {})
    if "name" in named:
        _refuse_fresh(str(named["name"]), named.get("tokenizer") or named.get("weights"))
    return _of_model(cards.build(spec), str(args.config))


def _of_model(model: Any, source: str) -> tuple[nn.Module, dict[str, Any], str]:
    tokenizer = getattr(model, "tokenizer", None)
    if not isinstance(tokenizer, nn.Module):
        raise ValueError(
            f"{source}: {type(model).__name__} has no tokenizer. Name one with --tokenizer, or "
            "build the model on one."
        )
    return tokenizer, token_options(model), source


def _refuse_fresh(name: str, tokenizer: Any) -> None:
    """Stop at a card without weights: what it builds was never trained."""
    if tokenizer is not None or name not in cards.names("models"):
        return
    card = cards.read("models", name)
    if card.get("weights") is not None:
        return
    found: Any = cards.build({key: card[key] for key in ("class_path", "init_args")})
    tokenizer = getattr(found, "tokenizer", found)
    if tokenizer is None or any(True for _ in tokenizer.parameters()):
        raise ValueError(
            f"{name}: a card without weights, so its tokenizer is untrained and its tokens mean "
            "nothing. Name a run or a file with --tokenizer."
        )


def _summary(made: Store, signal: Store) -> str:
    columns = made.columns
    hours = float((columns.n_times / columns.sfreq).sum()) / 3600
    about = [entry.details[TOKENS] for entry in made.entries]
    windows = sum(item["n_windows"] for item in about)
    tokens = sum(item["n_windows"] * item["n_tokens"] for item in about)
    held = signal.columns
    rate = float(held.n_bytes.sum() / (held.n_times / held.sfreq).sum())
    size = int(columns.n_bytes.sum())
    return (
        f"{_dataset(made)}: {windows} windows of {len(made)} recordings, {tokens:,} tokens, "
        f"{readable(size)} in {made.where} ({readable(round(size / hours))} for an hour, the "
        f"signal has {readable(round(rate * 3600))}); made by {made.about['tokenizer']}"
    )
