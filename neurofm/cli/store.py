"""`neurofm store du | gc | explain`: what prepared stores hold, what can go, how they were made."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neurofm.data.preparing.keys import default_store_root
from neurofm.data.preparing.problems import PROBLEMS, read_problems
from neurofm.data.preparing.rebuilds import outlook, replaced_versions
from neurofm.data.steps.preprocess import build_steps
from neurofm.data.tokenized.outlook import outlook_of_tokens
from neurofm.io import Entry, Store, open_corpus
from neurofm.io.stores.blocks import TOKENS
from neurofm.io.stores.inventory import LOCK, Leftover, is_store, leftovers
from neurofm.io.stores.manifest import MANIFEST
from neurofm.io.stores.remote import is_remote

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_RECENT_S = 3600.0  # without locks, a store that was written to so lately is taken to be in use
_OWN = {MANIFEST, LOCK, PROBLEMS, "journal.jsonl"}  # what may go with a store without recordings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    where = "folders of stores, stores, or names of datasets (else $NEUROFM_STORE or your cache)"
    du = actions.add_parser("du", help="what is there: recordings, hours, bytes, what is damaged")
    du.add_argument("stores", nargs="*", help=where)
    du.add_argument("--json", action="store_true", help="as JSON")
    gc = actions.add_parser("gc", help="what no index names, and remove it with --yes")
    gc.add_argument("stores", nargs="*", help=where)
    gc.add_argument("--yes", action="store_true", help="remove what is listed")
    explain = actions.add_parser("explain", help="how it was prepared, and what would be made anew")
    explain.add_argument("store", help="folder or address of a store, or the name of a dataset")
    explain.add_argument("recording", nargs="?", help="one recording: its id, or a part of it")
    explain.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of the recordings (else $NEUROFM_DATA)"
    )
    explain.add_argument("--card", metavar="CARD", help="dataset card to compare with")


def run(args: argparse.Namespace) -> int:
    """Run one action."""
    console = Console()
    if args.action == "explain":
        for where in listed_stores(args.store):
            _explain(console, Store(where), args)
        return 0
    given = args.stores or [str(default_store_root())]
    stores = [Path(found) for item in given for found in listed_stores(item, empty=True)]
    return (
        _du(console, stores, as_json=args.json)
        if args.action == "du"
        else _gc(console, stores, remove=args.yes)
    )


def listed_stores(what: str, *, empty: bool = False) -> list[str]:
    """Stores that are meant by a folder, an address, or a dataset's name.

    Args:
        empty: Allow that there are none.

    Raises:
        FileNotFoundError: There are none.
    """
    if is_remote(what):
        return [what]
    folder, root = Path(what), default_store_root()
    if is_store(folder):
        return [what]
    found = [path for path in _folders(folder) if is_store(path)]
    if not found and "/" not in what:
        found = [path for path in _folders(root) if is_store(path) and _dataset(path) == what]
    if not found and not (empty and (folder.is_dir() or folder == root)):
        names = sorted({_dataset(path) for path in _folders(root) if is_store(path)})
        raise FileNotFoundError(
            f"{what}: no prepared store. In {root} there are stores of "
            f"{', '.join(names) or 'no dataset'}. `neurofm prepare DATASET` makes one."
        )
    return [str(path) for path in found]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _dataset(store: Path) -> str:
    return store.name.rpartition("-")[0]


def readable(n_bytes: int) -> str:
    """Bytes for people."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = next((p for p in range(4) if n_bytes < 1000 ** (p + 1)), 4)
    return f"{n_bytes / 1000**power:.{min(power, 1)}f} {units[power]}"


@dataclass(frozen=True)
class Usage:
    """One line of `du`.

    Args:
        n_bytes: Of the recordings that the index names.
        damaged: Files of these that are missing or have another size; `verify` reads them.
        failed: Recordings that could not be prepared.
        removable: Bytes that `gc` would remove.
        error: Why the store cannot be opened.
    """

    store: str
    dataset: str
    steps: str
    dtype: str
    recordings: int
    hours: float
    n_bytes: int
    damaged: int
    failed: int
    removable: int
    error: str = ""


def usage(folder: Path) -> Usage:
    """What is in a store, without reading samples."""
    removable = sum(item.n_bytes for item in leftovers(folder) if item.removable)
    failed = len(read_problems(folder))
    try:
        store = Store(folder)
    except (OSError, ValueError) as error:
        text = "nothing is sealed" if isinstance(error, FileNotFoundError) else str(error)
        name = _dataset(folder)
        return Usage(folder.name, name, "", "", 0, 0.0, 0, 0, failed, removable, text)
    columns, about = store.columns, store.about
    sizes = {}
    with suppress(FileNotFoundError):
        for file in os.scandir(folder / "recordings"):
            sizes[file.name] = file.stat().st_size
    expected = zip(store.keys, columns.n_bytes.tolist(), strict=True)
    return Usage(
        store=folder.name,
        dataset=str(about.get("dataset", _dataset(folder))),
        steps=", ".join(step_name(spec) for spec in single_steps(about.get("steps", ()))),
        dtype=str(about.get("dtype", "")),
        recordings=len(store),
        hours=float((columns.n_times / columns.sfreq).sum() / 3600),
        n_bytes=int(columns.n_bytes.sum()),
        damaged=sum(sizes.get(f"{key}.bin") != size for key, size in expected),
        failed=failed,
        removable=removable,
    )


def single_steps(specs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Specs of steps, those of steps that hold several one by one."""
    for spec in specs:
        inner = (spec.get("init_args") or {}).get("steps")
        if isinstance(inner, list) and all("class_path" in item for item in inner):
            yield from single_steps(inner)
        else:
            yield spec


def step_name(spec: dict[str, Any]) -> str:
    """Class of a step."""
    return str(spec["class_path"]).rpartition(".")[2]


def _du(console: Console, stores: Sequence[Path], *, as_json: bool) -> int:
    found = sorted((usage(folder) for folder in stores), key=lambda item: -item.n_bytes)
    if as_json:
        sys.stdout.write(json.dumps([asdict(item) for item in found], indent=1) + "\n")
        return 0
    table = Table(box=None, header_style="bold", pad_edge=False)
    # A name that is wrapped cannot be copied; a list of steps may be.
    table.add_column("store", no_wrap=True, min_width=max((len(i.store) for i in found), default=0))
    table.add_column("steps", overflow="fold", min_width=9)
    numbers = {
        "type": [item.dtype for item in found],
        "recordings": [f"{item.recordings}" for item in found],
        "hours": [f"{item.hours:.1f}" for item in found],
        "size": [readable(item.n_bytes) for item in found],
        "damaged": [f"{item.damaged or ''}" for item in found],
        "failed": [f"{item.failed or ''}" for item in found],
        "can go": [readable(item.removable) if item.removable else "" for item in found],
    }
    numbers = {name: values for name, values in numbers.items() if any(values)}
    for name, values in numbers.items():  # never cut short
        width = max(map(len, (name, *values)))
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    for item, *told in zip(found, *numbers.values(), strict=True):
        table.add_row(item.store, item.error or item.steps or "none", *told)
    console.width = max(console.width, console.measure(table).minimum)
    console.print(table)
    hours, size = sum(item.hours for item in found), sum(item.n_bytes for item in found)
    say = _say(console)
    say(f"{len(found)} store{'' if len(found) == 1 else 's'}, {hours:.1f} h, {readable(size)}")
    if any(item.damaged for item in found):
        say("Damaged files: `neurofm verify STORE` says how to make them again.")
    if any(item.removable for item in found):
        say("What can go: `neurofm store gc` lists it.")
    return 0


def _gc(console: Console, stores: Sequence[Path], *, remove: bool) -> int:
    say = _say(console)
    total = 0
    for folder in stores:
        with idle(folder) as free:
            if not free:
                say(f"{folder}: somebody writes to it; left alone.")
                continue
            found = leftovers(folder)
            gone = [item for item in found if item.removable]
            for item in found:
                mark = "" if item.removable else " (kept)"
                name = item.files[0].relative_to(folder)
                say(f"{folder.name}/{name}: {item.why}, {readable(item.n_bytes)}{mark}")
            total += sum(item.n_bytes for item in gone)
            empty = _is_empty(folder, gone)
            if empty:
                say(f"{folder}: a store without recordings")
            if remove:
                _remove(folder, gone, whole=empty)
    if total or not remove:
        say(f"{readable(total)} {'removed' if remove else 'can go'}.")
    if not remove:
        say("Nothing was removed. Add --yes to remove what is not marked as kept.")
    return 0


def _is_empty(folder: Path, gone: Sequence[Leftover]) -> bool:
    """Whether nothing that anybody could want would be left in a store."""
    with suppress(OSError, ValueError):
        if len(Store(folder)):
            return False
    doomed = {file for item in gone for file in item.files}
    left = {path for path in folder.rglob("*") if path.is_file()} - doomed
    indices = set(folder.glob("index-*.bin"))
    return left <= indices | {folder / name for name in _OWN}


def _remove(folder: Path, gone: Sequence[Leftover], *, whole: bool) -> None:
    for item in gone:
        for file in item.files:
            file.unlink(missing_ok=True)
    if whole:
        shutil.rmtree(folder)


@contextmanager
def idle(store: Path) -> Iterator[bool]:
    """Hold the lock of a store, if nobody else does: then it is True, and no driver starts."""
    if any(item.why == "being written" for item in leftovers(store)):
        yield False
    elif fcntl is None or not (store / LOCK).is_file():
        yield not _touched_lately(store)
    else:
        with open(store / LOCK, "rb+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = True
            except BlockingIOError:
                free = False
            except OSError:  # no locks on this file system
                free = not _touched_lately(store)
            yield free


def _touched_lately(store: Path) -> bool:
    newest = 0.0
    for folder in (store, store / "recordings"):
        with suppress(FileNotFoundError):
            times = (file.stat().st_mtime for file in os.scandir(folder) if file.is_file())
            newest = max(newest, max(times, default=0.0))
    return time.time() - newest < _RECENT_S


def _explain(console: Console, store: Store, args: argparse.Namespace) -> None:
    say, about = _say(console), store.about
    say(f"{store.where}: {about.get('dataset', 'unknown dataset')}, {about.get('dtype', '')}")
    for spec in single_steps(about.get("steps", ())):
        arguments = ", ".join(f"{k}={v}" for k, v in (spec.get("init_args") or {}).items())
        say(f"  step {step_name(spec)}({arguments})")
    chosen = None if args.recording is None else _chosen(store, args.recording)
    if chosen is None:
        rates = Counter(store.columns.sfreq.tolist())
        say(
            f"  {len(store)} recordings of {len(set(store.columns.subject.tolist()))} subjects, "
            f"{len(store.sensor_sets)} sensor sets, "
            + ", ".join(f"{n} at {rate:g} Hz" for rate, n in rates.most_common())
        )
    else:
        _explain_recording(say, store, chosen)
    if is_remote(store.where):
        return
    if about.get("dtype") == TOKENS:
        for line in outlook_of_tokens(store, only=None if chosen is None else chosen.recording.id):
            say(line)
        return
    try:
        corpus = open_corpus(args.card or about["dataset"], root=args.root)
        steps = build_steps(about["steps"], line_freq=corpus.line_freq)
        only = None if chosen is None else chosen.recording.id
        plan = outlook(store, corpus, steps, only=only)
    except (OSError, ValueError, KeyError) as error:
        say(f"Whether anything would be made anew cannot be said: {error}")
        return
    if chosen is not None:
        words = plan.reasons.get(chosen.recording.id)
        say(f"Prepared again, it would be {f'made anew: {_and(words)}' if words else 'kept'}.")
        return
    say(f"Prepared again, {plan.kept} recordings would be kept.")
    for reason, names in _grouped(plan.reasons):
        say(f"  made anew: {len(names)}, such as {names[0]}: {reason}")


def _explain_recording(say: Any, store: Store, entry: Entry) -> None:
    source = entry.provenance.get("source")
    say(
        f"{entry.recording.id}: {entry.n_channels} channels at {entry.sfreq:g} Hz, "
        f"{entry.duration:.1f} s, {len(entry.events)} events, {readable(entry.n_bytes)}"
    )
    if entry.dtype == TOKENS:
        say(f"  key {entry.key}, tokens in blocks of {entry.block} bytes, one for each window")
    else:
        say(
            f"  key {entry.key}, samples {entry.dtype} in blocks of {entry.block}, "
            f"error at most {float(entry.max_error.max()):.3g} (working unit)"
        )
    say(f"  made from {source} by code version {entry.provenance.get('code_version')}")
    for name, digest in (entry.provenance.get("sources") or {}).items():
        say(f"    {name}  {digest}")
    for line in entry.history:
        say(f"  {line}")
    if entry.fingerprint:
        say(f"  fingerprint {entry.fingerprint}")
    for name, value in entry.details.items():
        say(f"  {name}: {value}")
    if not is_remote(store.where):
        for version in replaced_versions(store.path, entry):
            why = _and(version.changed) or "nothing that was kept says why"
            say(f"  replaced {version.key}: {why}")


def _chosen(store: Store, text: str) -> Entry:
    """The recording whose id or key is, or contains, a text."""
    found = []
    for i, key in enumerate(store.keys):
        name = store.recording(i).id
        if text in (name, key):
            return store.entries[i]
        if text in name or text in key:
            found.append(i)
    if len(found) == 1:
        return store.entries[found[0]]
    several = ", ".join(store.recording(i).id for i in found[:5])
    raise ValueError(
        f"{store.where}: {len(found)} recordings match {text!r}"
        + (f": {several}{', ...' if len(found) > 5 else ''}." if found else ".")
        + " Give the whole id, such as "
        + (store.recording(found[0] if found else 0).id if len(store) else "of another store")
    )


def _grouped(reasons: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    """Recordings by their reasons, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for name, words in reasons.items():
        groups.setdefault(_and(words), []).append(name)
    return sorted(groups.items(), key=lambda item: -len(item[1]))


def _and(words: Sequence[str] | None) -> str:
    return "; ".join(words or ())


def _say(console: Console) -> Any:
    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    return say
