"""Why a recording would be prepared again, or was: what it was made from against what there is now.

A prepared recording remembers the hashes that its key was made of (`KeyParts.provenance`). Two such
memories, or one and the present state of corpus and card, differ in named parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurofm.data.preparing.journal import Hashed, Journal, hash_of
from neurofm.data.preparing.keys import (
    CorpusLike,
    Step,
    all_sources,
    key_parts,
    rules_hash,
    source_name,
    steps_hash,
)
from neurofm.io.stores.files import read_document
from neurofm.io.stores.manifest import Entry
from neurofm.io.stores.store import Store
from neurofm.types import Recording

JOURNAL = "journal.jsonl"
UNREAD = "its files may have changed (they were not read)"
GONE = "its source is not in the corpus any more"
NEW = "not prepared yet"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What changed between two provenances, in words; empty if nothing did.

    Args:
        before: Of a prepared recording.
        after: Of another version of it, or what one made now would have.
    """
    words = []
    old, new = before.get("code_version"), after.get("code_version")
    if old != new:
        words.append(f"the code changed (version {old} to {new})")
    for name, text in (("rules_sha256", "the card's rules"), ("steps_sha256", "the steps")):
        if name not in before or name not in after:
            words += [] if old != new else [f"{text} may have changed: no hash of them was kept"]
        elif before[name] != after[name]:
            words.append(f"{text} changed")
    words += _sources(before, after)
    return words


def _sources(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old, new = before.get("sources"), after.get("sources")
    if new is None:
        return [UNREAD]
    if old is None:
        same = before.get("source_sha256") == after.get("source_sha256")
        return [] if same else ["a source file changed (which one was not kept)"]
    words = [f"{name} changed" for name in old if name in new and old[name] != new[name]]
    words += [f"{name} is gone" for name in old if name not in new]
    words += [f"{name} is new" for name in new if name not in old]
    return words


@dataclass(frozen=True)
class Outlook:
    """What preparing again would do.

    Args:
        reasons: By recording id, why it would be made (again); recordings that would be left alone
            are not listed.
        kept: How many would be left alone.
    """

    reasons: dict[str, list[str]] = field(default_factory=dict)
    kept: int = 0


def outlook(
    store: Store, corpus: CorpusLike, steps: Sequence[Step], *, only: str | None = None
) -> Outlook:
    """What preparing a corpus into its store again would do.

    Source files that the store's journal knows are not read; others are read if `only` names the
    recording, and otherwise said to be unread.

    Args:
        only: Id of one recording.
    """
    rules, hashed_steps = rules_hash(corpus.card), steps_hash(steps)
    dtype = store.about["dtype"]
    journal = Journal(store.path / JOURNAL)
    present = {item.id: item for item in corpus.recordings(subjects=None, runs=None)}
    reasons: dict[str, list[str]] = {}
    kept = 0
    prepared = set()
    for entry in store.entries:
        name = entry.recording.id
        prepared.add(name)
        if only not in (None, name):
            continue
        recording = present.get(name)
        if recording is None:
            reasons[name] = [GONE]
            continue
        known = _hashes(corpus, recording, journal, read=only is not None)
        parts = key_parts(recording, known or {}, rules=rules, steps=hashed_steps, dtype=dtype)
        after = parts.provenance(source_name(recording, corpus.root))
        if known is None:
            after = {k: v for k, v in after.items() if not k.startswith("source")}
        words = differences(entry.provenance, after)
        if words:
            reasons[name] = words
        else:
            kept += 1
    if only is None:
        reasons |= {name: [NEW] for name in present if name not in prepared}
    return Outlook(reasons, kept)


def _hashes(
    corpus: CorpusLike, recording: Recording, journal: Journal, *, read: bool
) -> dict[str, str] | None:
    """Hash of each source file by its path, None if one is unknown and shall not be read."""
    with suppress(OSError):
        files = all_sources(corpus, recording)
        known: dict[str, Hashed] = journal.known(files)
        if read:
            known = {str(file): hash_of(file, known) for file in files}
        if len(known) == len(files):
            return {path: item.sha256 for path, item in known.items()}
    return None


@dataclass(frozen=True)
class Version:
    """Another version of a recording that still lies in its store.

    Args:
        changed: What differs in the one that is listed.
    """

    key: str
    changed: list[str]


def replaced_versions(store: Path, entry: Entry) -> list[Version]:
    """Versions that a recording had before, the newest first, and why each was replaced."""
    found = []
    documents = (store / "recordings").glob(f"{glob_safe(entry.recording.id)}-*.json")
    for file in sorted(documents, key=lambda file: -file.stat().st_mtime_ns):
        with suppress(OSError, KeyError, TypeError):
            record = read_document(file)
            same = Recording(**record["recording"]) == entry.recording
            if same and record["key"] != entry.key:
                changed = differences(record["provenance"], entry.provenance)
                found.append(Version(record["key"], changed))
    return found


def glob_safe(name: str) -> str:
    """A pattern for names that begin with what `name` became in a key."""
    return "".join(char if char.isalnum() or char in "_.-" else "?" for char in name)
