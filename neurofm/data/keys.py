"""What a prepared recording depends on, as names of its files and of its store.

The key of a recording is a hash of its source files' contents, its entities, the card's rules, the
steps, the sample type and `CODE_VERSION`. File times are never trusted: contents are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from neurofm.cards import spec_of
from neurofm.io.blocks import DTYPES
from neurofm.types import Recording, Signal

# Increase when a change of code changes the samples that a step or a reader makes.
CODE_VERSION = 1
# Fields of a card that say nothing about samples: rewording them rebuilds nothing.
_WORDS = ("description", "license", "citation", "url", "access", "fetch", "folder", "expected")
_BIDS = re.compile(r"_(eeg|meg|ieeg|bold)$")


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
            specs.append(spec_of(step))
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
    return root / f"{_plain(dataset)}-{_digest({'steps': step_specs(steps), 'dtype': dtype})[:12]}"


def source_files(recording: Recording) -> list[Path]:
    """All files that make up a recording, sorted: its own, and those beside it that go with it.

    A folder (CTF) counts with everything in it. Otherwise: every file whose name begins with the
    recording's, so headers, markers, parts and sidecars; in BIDS also the electrodes and coordinate
    systems of the subject.
    """
    path = recording.path
    if path is None:
        return []
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    base = _BIDS.sub("", path.name.split(".", 1)[0])
    subject = base.split("_", 1)[0] if base.startswith("sub-") else None
    found = {path}
    for file in path.parent.iterdir():
        rest = file.name[len(base) :]
        own = file.name.startswith(base) and not rest[:1].isalnum()
        shared = subject is not None and re.match(
            rf"{re.escape(subject)}_.*(electrodes\.tsv|coordsystem\.json)$", file.name
        )
        if (own or shared) and file.is_file():
            found.add(file)
    return sorted(found)


def recording_key(
    corpus: CorpusLike, recording: Recording, content: str, specs: list[dict[str, Any]], dtype: str
) -> str:
    """Name of a prepared recording: its entities, readable, and a hash of all it depends on."""
    entities = {k: v for k, v in asdict(recording).items() if k != "path"}
    rules = {k: v for k, v in corpus.card.items() if k not in _WORDS}
    everything = {
        "content": content,
        "entities": entities,
        "card": rules,
        "steps": specs,
        "dtype": dtype,
        "code": CODE_VERSION,
    }
    return f"{_plain(recording.id)}-{_digest(everything)[:16]}"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(name: str) -> str:
    """A name that is fit for a file on any disk."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name).lstrip(".") or "unnamed"


def content_hash(files: Sequence[Path]) -> str:
    """SHA-256 over the contents and names of files."""
    total = hashlib.sha256()
    for file in files:
        with open(file, "rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
        total.update(file.name.encode() + b"\0")
    return total.hexdigest()


def source_name(recording: Recording, root: Path | None) -> str | None:
    """The recording's path inside its corpus; no folder of this machine."""
    if recording.path is None:
        return None
    if root is not None and recording.path.is_relative_to(root):
        return recording.path.relative_to(root).as_posix()
    return recording.path.name
