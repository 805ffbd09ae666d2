"""`neurofm verify STORE`: every byte of a prepared store read, and what is damaged made anew."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from neurofm.cli.store import listed_stores, readable
from neurofm.data.preparing.repair import repair
from neurofm.io import Store, open_corpus, seal
from neurofm.io.stores.blocks import TOKENS
from neurofm.io.stores.damage import Damage, find_damage
from neurofm.io.stores.files import read_whole
from neurofm.io.stores.inventory import Leftover, leftovers
from neurofm.io.stores.manifest import read_manifest
from neurofm.io.stores.remote import is_remote

_TOKENIZE = "neurofm tokenize with the same options and --rehash"
_SHOWN = 20  # rows of the table; --json has all


@dataclass
class Findings:
    """What is wrong with one store.

    Args:
        index: Why the index cannot be used, "" if it can.
        tokens: It is a store of tokens.
        failed: Why damaged recordings could not be made anew, by their ids.
        repaired: How many were.
    """

    where: str
    recordings: int = 0
    n_bytes: int = 0
    index: str = ""
    tokens: bool = False
    damaged: list[Damage] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    repaired: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged, or not any more."""
        return not self.index and len(self.damaged) == self.repaired


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Read every byte of a prepared store and compare it with its checksums. Finds flipped "
        "bits, truncated and missing files, an index that disagrees, and files nobody needs."
    )
    parser.add_argument(
        "store", help="folder or address of a store, or the name of a dataset for all its stores"
    )
    parser.add_argument(
        "--repair", action="store_true", help="prepare damaged recordings again, and only those"
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of the recordings (else $NEUROFM_DATA)"
    )
    parser.add_argument(
        "--card", metavar="CARD", help="dataset card to repair by (else the one of that name)"
    )
    parser.add_argument("--json", action="store_true", help="everything found, as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Verify; 0 if every store is whole, 1 if something is damaged."""
    found = []
    for where in listed_stores(args.store):
        findings = Findings(where)
        store = _opened(findings, repair=args.repair)
        if store is not None:
            _read(store, findings, quiet=args.quiet or args.json)
            if args.repair and findings.damaged:
                _repair(store, findings, args)
        found.append(findings)
        if not args.json:
            _print(Console(), findings)
    if args.json:
        sys.stdout.write(json.dumps([_as_json(item) for item in found], indent=1) + "\n")
    return int(not all(item.whole for item in found))


def _opened(findings: Findings, *, repair: bool) -> Store | None:
    """The store, if its index can be used; a damaged one is made anew from the documents."""
    try:
        return _whole_index(findings.where)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        if not repair or is_remote(findings.where):
            findings.index = str(error)
            return None
    seal(Path(findings.where))
    return _whole_index(findings.where)


def _whole_index(where: str) -> Store:
    """Opened, and its index compared with the hash that the manifest has."""
    store = Store(where)
    manifest, _ = read_manifest(store.source, store.where)
    raw = read_whole(store.source, manifest["index"]["file"])
    if hashlib.sha256(raw.data).hexdigest() != manifest["index"]["sha256"]:
        raise OSError(f"{store.where}: the index is not the one that the manifest names.")
    return store


def _read(store: Store, findings: Findings, *, quiet: bool) -> None:
    findings.recordings = len(store)
    findings.tokens = store.about.get("dtype") == TOKENS
    findings.n_bytes = int(store.columns.n_bytes.sum())
    columns = (
        TextColumn("reading {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with _progress(columns, quiet=quiet) as bar:
        task = bar.add_task(Path(findings.where).name, total=findings.n_bytes)
        threads = min(4, os.cpu_count() or 1)
        advance = lambda n: bar.advance(task, n)  # noqa: E731
        findings.damaged = list(find_damage(store, threads=threads, advance=advance))
    if not is_remote(findings.where):
        findings.leftovers = leftovers(store.path)


def _repair(store: Store, findings: Findings, args: argparse.Namespace) -> None:
    if is_remote(findings.where):
        raise ValueError(
            f"{findings.where}: a store that is elsewhere cannot be repaired from here. Repair the "
            "folder it is a copy of, and copy it again."
        )
    if store.about.get("dtype") == TOKENS:
        raise ValueError(f"{findings.where}: tokens are made again by {_TOKENIZE}.")
    if not {"dataset", "steps", "dtype"} <= store.about.keys():
        raise ValueError(
            f"{findings.where}: its manifest does not say of which dataset, with which steps and "
            "type it was prepared, so it cannot be repaired. Prepare the dataset anew."
        )
    corpus = open_corpus(args.card or store.about["dataset"], root=args.root)
    columns = (
        TextColumn("preparing {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _progress(columns, quiet=args.quiet or args.json) as bar:
        task = bar.add_task(corpus.name, total=len(findings.damaged))
        findings.failed = repair(
            store,
            findings.damaged,
            corpus,
            advance=lambda _: bar.advance(task),
            tell=bar.console.print,
        )
    findings.repaired = len(findings.damaged) - len(findings.failed)


@contextmanager
def _progress(columns: tuple[Any, ...], *, quiet: bool) -> Iterator[Progress]:
    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        yield bar


def _print(console: Console, found: Findings) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    if found.index:
        say(f"{found.where}: the index cannot be used: {found.index}")
        say(f"Make it anew from the recordings: neurofm verify {found.where} --repair")
        return
    if found.damaged:
        table = Table("recording", "damage", "", box=None, header_style="bold", pad_edge=False)
        for item in found.damaged[:_SHOWN]:
            detail = item.detail
            if found.repaired or found.failed:
                failure = found.failed.get(item.recording)
                detail += ": made anew" if failure is None else f"; not made anew: {failure}"
            table.add_row(item.recording, item.what, detail)
        console.print(table)
        if len(found.damaged) > _SHOWN:
            say(f"... and {len(found.damaged) - _SHOWN} more; --json lists all.")
    good = found.recordings - len(found.damaged)
    say(
        f"{found.where}: {good} of {found.recordings} recordings are whole, "
        f"{readable(found.n_bytes)} read."
    )
    if found.repaired:
        say(f"{found.repaired} of {len(found.damaged)} damaged recordings were made anew.")
    elif found.damaged and not found.failed:
        again = _TOKENIZE if found.tokens else f"neurofm verify {found.where} --repair"
        say(f"Make these again, and no others: {again}")
    if found.leftovers:
        size = sum(item.n_bytes for item in found.leftovers)
        say(
            f"{len(found.leftovers)} things that the index does not name ({readable(size)}): "
            f"neurofm store gc {found.where}"
        )


def _as_json(found: Findings) -> dict[str, Any]:
    return {
        "store": found.where,
        "ok": found.whole,
        "recordings": found.recordings,
        "bytes": found.n_bytes,
        "index": found.index or None,
        "damaged": [
            {**asdict(item), "not_repaired": found.failed.get(item.recording)}
            for item in found.damaged
        ],
        "repaired": found.repaired,
        "leftovers": [
            {
                "files": [str(file) for file in item.files],
                "why": item.why,
                "removable": item.removable,
                "bytes": item.n_bytes,
            }
            for item in found.leftovers
        ],
    }
