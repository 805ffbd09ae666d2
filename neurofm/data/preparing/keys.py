"""What a prepared recording depends on, as names of its files and of its store.

The key of a recording is a hash of its source files' contents, its entities, the card's rules, the
steps, the sample type and `CODE_VERSION`. `KeyParts` keeps hashes of these apart, so that it can be
said later which of them changed. Contents count, not times: see `journal` for when a file need not
be read to know them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from neurofm.cards import spec_of
from neurofm.io.bids import sidecars
from neurofm.io.sidecars import bids_root
from neurofm.io.stores.blocks import DTYPES
from neurofm.types import Recording, Signal

# Increase when a change of code changes the samples that a step or a reader makes.
CODE_VERSION = 3
# Fields of a card that say nothing about samples: rewording them rebuilds nothing.
_WORDS = ("description", "license", "citation", "url", "access", "fetch", "folder", "expected")
_BIDS = re.compile(r"(_split-\d+)?_(eeg|meg|ieeg|bold|nirs)$")
_SHORT = 16  # hexadecimal digits of hashes that are kept to be compared, not to be built upon


@runtime_checkable
class CorpusLike(Protocol):
    """What is needed of a `neurofm.io.Corpus`."""

    @property
    def name(self) -> str:
        """The card's name."""
        ...

    @property
    def card(self) -> Mapping[str, Any]:
        """The card."""
        ...

    @property
    def root(self) -> Path | None:
        """Folder of the recordings."""
        ...

    def recordings(
        self, *, subjects: Sequence[str | int] | None, runs: Sequence[str | int] | None
    ) -> list[Recording]:
        """Recordings of these subjects and runs."""
        ...

    def load(self, recording: Recording) -> Signal:
        """One recording in working units."""
        ...


Step = Callable[[Signal], Signal]


def default_store_root() -> Path:
    """`$NEUROFM_STORE`, else `~/.cache/neurofm/store`."""
    given = os.environ.get("NEUROFM_STORE")
    return Path(given) if given else Path.home() / ".cache" / "neurofm" / "store"


def step_specs(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Steps as `class_path` and `init_args`.

    Raises:
        TypeError: A step that neither is a dataclass nor was made by `cards.configured`.
    """
    specs = []
    for step in steps:
        if hasattr(step, "_arguments"):
            spec = spec_of(step)
            if spec["init_args"].get("causal") is False:  # a store made before there was a choice
                off = {"causal", "tile_s"}
                spec["init_args"] = {k: v for k, v in spec["init_args"].items() if k not in off}
            specs.append(spec)
        elif is_dataclass(step) and not isinstance(step, type):
            name = f"{type(step).__module__}.{type(step).__qualname__}"
            specs.append({"class_path": name, "init_args": asdict(step)})
        else:
            raise TypeError(
                f"prepare: step {step!r} cannot be written down, so its result could not be told "
                "from another's. Make it a frozen dataclass with `__call__`."
            )
    return specs


def store_folder(
    dataset: str,
    steps: Sequence[Step],
    store_root: Path | str | None = None,
    *,
    dtype: str = "int16",
) -> Path:
    """Where a dataset prepared with these steps is kept: `<store_root>/<dataset>-<hash>`."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    root = default_store_root() if store_root is None else Path(store_root)
    made = digest({"steps": step_specs(steps), "dtype": dtype})
    return root / f"{plain_name(dataset)}-{made[:12]}"


class Folders:
    """Names in folders, listed once: a folder of 100,000 files is not listed 100,000 times."""

    def __init__(self) -> None:
        self._names: dict[Path, list[str]] = {}

    def beginning(self, folder: Path, start: str) -> list[str]:
        """Names in a folder that begin so, sorted."""
        names = self._names.get(folder)
        if names is None:
            names = self._names[folder] = sorted(os.listdir(folder))
            if len(self._names) > 1000:
                self._names.pop(next(iter(self._names)))
        first = bisect_left(names, start)
        return list(takewhile(lambda name: name.startswith(start), names[first:]))


def source_files(recording: Recording, *, folders: Folders | None = None) -> list[Path]:
    """All files that make up a recording, sorted: its own, and those that go with it.

    A folder (CTF) counts with everything in it. Beside it: every file whose name begins with the
    recording's, so headers, markers, parts and sidecars. In BIDS also what applies by inheritance,
    in this folder or above (`neurofm.io.bids.sidecars`).

    Args:
        folders: Listings to share between recordings.
    """
    path = recording.path
    if path is None:
        return []
    folders = Folders() if folders is None else folders
    found = {file for file in path.rglob("*") if file.is_file()} if path.is_dir() else {path}
    base = _BIDS.sub("", path.name.split(".", 1)[0])
    for name in folders.beginning(path.parent, base):
        if not name[len(base) :][:1].isalnum() and (path.parent / name).is_file():
            found.add(path.parent / name)
    if base.startswith("sub-"):
        found.update(sidecars(path, bids_root(path) or path.parent))
    return sorted(found)


def all_sources(
    corpus: CorpusLike, recording: Recording, *, folders: Folders | None = None
) -> list[Path]:
    """Files of a recording, and those its reader names besides: masks, atlases, tables elsewhere.

    Args:
        folders: As for `source_files`.
    """
    named = getattr(getattr(corpus, "reader", None), "sources", None)
    more = [] if named is None else named(recording)
    return sorted({*source_files(recording, folders=folders), *more})


@dataclass(frozen=True)
class KeyParts:
    """What a key is made of, hashed apart.

    Args:
        sources: Hash of each source file, by its path from the recording's folder.
        source: Hash of all sources: contents and names.
        rules: Hash of what the card says about samples and events.
        steps: Hash of the steps.
        entities: Subject, session, run, task, dataset.
    """

    sources: dict[str, str]
    source: str
    rules: str
    steps: str
    dtype: str
    entities: dict[str, str | None]

    def key(self, recording: Recording) -> str:
        """Name of a prepared recording: its entities, readable, and a hash of everything."""
        parts = {k: v for k, v in asdict(self).items() if k != "sources"}
        return f"{plain_name(recording.id)}-{digest({**parts, 'code': CODE_VERSION})[:16]}"

    def provenance(self, source: str | None) -> dict[str, Any]:
        """What a prepared recording remembers of its key.

        Args:
            source: The recording's name in its corpus.
        """
        return {
            "source": source,
            "source_sha256": self.source,
            "sources": {name: sha256[:_SHORT] for name, sha256 in self.sources.items()},
            "rules_sha256": self.rules[:_SHORT],
            "steps_sha256": self.steps[:_SHORT],
            "code_version": CODE_VERSION,
        }


def key_parts(
    recording: Recording,
    hashes: Mapping[str, str],
    *,
    rules: str,
    steps: str,
    dtype: str,
) -> KeyParts:
    """The parts of a recording's key.

    Args:
        hashes: SHA-256 of each source file, by its path.
        rules: From `rules_hash`.
        steps: From `steps_hash`.
    """
    sources = {_relative(path, recording): hashes[path] for path in sorted(hashes)}
    return KeyParts(
        sources=sources,
        source=digest(sources),
        rules=rules,
        steps=steps,
        dtype=dtype,
        entities={k: v for k, v in asdict(recording).items() if k != "path"},
    )


def _relative(path: str, recording: Recording) -> str:
    if recording.path is None:
        return Path(path).name
    return Path(os.path.relpath(path, recording.path.parent)).as_posix()


def rules_hash(card: Mapping[str, Any]) -> str:
    """Hash of what a card says about samples and events; its words do not count."""
    return digest({k: v for k, v in card.items() if k not in _WORDS})


def steps_hash(steps: Sequence[Step]) -> str:
    """Hash of steps and their arguments."""
    return digest(step_specs(steps))


def digest(value: Any) -> str:
    """SHA-256 of plain data."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def plain_name(name: str) -> str:
    """A name that is fit for a file on any disk."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name).lstrip(".") or "unnamed"


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_name(recording: Recording, root: Path | None) -> str | None:
    """The recording's path inside its corpus; no folder of this machine."""
    if recording.path is None:
        return None
    if root is not None and recording.path.is_relative_to(root):
        return recording.path.relative_to(root).as_posix()
    return recording.path.name
