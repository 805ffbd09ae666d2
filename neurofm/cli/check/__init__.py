"""`neurofm check PATH-or-DATASET`: what recordings hold, and what is wrong with them.

Every recording is read once, one at a time, and one that cannot be read does not stop the others.
What was found is compared with the facts the dataset card declares (`expected`). A folder that
cards describe is read with them; files beside the recordings, such as atlases, are named too.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from neurofm import cards
from neurofm.cli.check.comparison import compare, duplicates
from neurofm.cli.check.facts import Facts, examine
from neurofm.cli.check.printing import as_json, count_severities, show
from neurofm.io.corpus import Corpus, open_corpus
from neurofm.io.paths import auxiliary, cards_of, open_path, rest_of
from neurofm.types import Recording


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `neurofm check`."""
    parser.add_argument(
        "what",
        metavar="PATH-or-DATASET",
        help="a recording, a folder, or the name of a dataset card",
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of the dataset's recordings"
    )
    parser.add_argument("--subjects", nargs="+", metavar="S", help="only these subjects")
    parser.add_argument("--runs", nargs="+", metavar="R", help="only these runs")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="warnings are errors, as in training that tolerates no repair",
    )
    parser.add_argument("--json", action="store_true", help="everything found, as JSON")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 if there is an error among it."""
    logging.getLogger("neurofm").addHandler(logging.NullHandler())
    corpora, extra = _open(args.what, args.root)
    reports = []
    failed = False
    for corpus in corpora:
        recordings = corpus.recordings(subjects=args.subjects, runs=args.runs)
        # MNE logs to the standard output, where JSON must stand alone.
        with redirect_stdout(sys.stderr) if args.json else nullcontext():
            facts = list(_examined(corpus, recordings, args))
        whole = args.subjects is None and args.runs is None
        general = [*duplicates(facts), *compare(corpus, recordings, facts, whole=whole)]
        failed |= count_severities(facts, general)["error"] > 0
        if args.json:
            reports.append(as_json(corpus, facts, general))
        else:
            show(Console(), corpus, facts, general)
    if args.json:
        whole_report = reports[0] if len(reports) == 1 else {"corpora": reports}
        sys.stdout.write(json.dumps({**whole_report, "other_files": extra}, indent=1) + "\n")
    else:
        for line in extra:
            Console().print(escape(line), soft_wrap=True, highlight=False)
    return int(failed)


def _examined(
    corpus: Corpus, recordings: Sequence[Recording], args: argparse.Namespace
) -> Iterator[Facts]:
    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=args.json or not console.is_terminal
    ) as bar:
        task = bar.add_task(f"reading {corpus.name}", total=len(recordings))
        for recording in recordings:
            yield examine(corpus, recording, strict=args.strict)
            bar.advance(task)


def _open(what: str, root: Path | None) -> tuple[list[Corpus], list[str]]:
    """What to look at, and lines about files that are no recordings."""
    if what in cards.names("datasets") or what.endswith((".yaml", ".yml")) or root is not None:
        return [open_corpus(what, root=root)], []  # an unknown name gets its near misses
    path = Path(what)
    if not (path.exists() or path.is_symlink() or "/" in what or "." in what):
        return [open_corpus(what)], []
    found = _described(path) if path.is_dir() else []
    if found:
        rest = rest_of(path, found)
        return found + ([rest] if rest is not None else []), auxiliary(path)
    extra = auxiliary(path) if path.exists() else []
    try:
        corpus = open_path(path)
        corpus.recordings()
    except (FileNotFoundError, ValueError):
        if extra:
            return [], extra
        raise
    return [corpus], extra


def _described(folder: Path) -> list[Corpus]:
    """Corpora of the cards that describe a folder, of which there is a recording."""
    found = []
    for name, root in cards_of(folder):
        corpus = open_corpus(name, root=root)
        try:
            corpus.recordings()
        except FileNotFoundError:
            continue
        found.append(corpus)
    return found
