"""Damaged recordings made anew, and no others.

A damaged recording is moved aside, prepared from its source, and thrown away when that went well;
otherwise it is moved back, since its whole blocks can still be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from neurofm.data.preparing.keys import CorpusLike, store_folder
from neurofm.data.preparing.lock import only_driver
from neurofm.data.preparing.preparation import prepare_recording
from neurofm.data.steps.preprocess import build_steps
from neurofm.io.stores.damage import Damage
from neurofm.io.stores.files import remove_partial
from neurofm.io.stores.inventory import QUARANTINE
from neurofm.io.stores.manifest import seal
from neurofm.io.stores.store import Store


def repair(
    store: Store,
    damaged: Sequence[Damage],
    corpus: CorpusLike,
    *,
    advance: Callable[[Damage], None] = lambda item: None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, str]:
    """Prepare the damaged recordings of a store again, and seal it.

    Args:
        corpus: Of which it was prepared.
        advance: Called after each recording.
        tell: Called if another driver is at work on the store and is waited for.

    Returns:
        Why recordings could not be made anew, by their ids; empty if all were.

    Raises:
        ValueError: The store's name is not that of what its manifest says, so what would be made
            does not belong into it.
        OSError: The store cannot be written.
    """
    about = store.about
    steps = build_steps(about["steps"], line_freq=None)
    expected = store_folder(corpus.name, steps, store.path.parent, dtype=about["dtype"])
    if expected.name != store.path.resolve().name:
        raise ValueError(
            f"{store.path}: this folder's name is not that of its contents ({expected.name}), so "
            "it was renamed, or prepared by another version. Prepare the corpus anew."
        )
    keys: list[str] = []
    problems: dict[str, str] = {}
    with only_driver(store.path, tell=tell):
        remove_partial(store.path / "recordings")
        _put_back(store.path)
        present = {item.id: item for item in corpus.recordings(subjects=None, runs=None)}
        try:
            for item in damaged:
                if item.recording not in present:
                    problems[item.recording] = f"it is not in {corpus.root} any more"
                    advance(item)
                    continue
                aside = _move(store.path, "recordings", QUARANTINE, item.key)
                try:
                    made = prepare_recording(
                        corpus, present[item.recording], steps, store.path, dtype=about["dtype"]
                    )
                except BaseException as error:
                    _move(store.path, QUARANTINE, "recordings", item.key)
                    if not isinstance(error, Exception):
                        raise
                    problems[item.recording] = f"{type(error).__name__}: {error}"
                else:
                    keys.append(made.key)
                    for file in aside:
                        file.unlink()
                advance(item)
        finally:
            seal(store.path, keys=keys)
    folder = store.path / QUARANTINE
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return problems


def _put_back(store: Path) -> None:
    """What a killed repair had moved aside and not replaced."""
    aside = store / QUARANTINE
    for file in list(aside.iterdir()) if aside.is_dir() else ():
        place = store / "recordings" / file.name
        if place.exists():
            file.unlink()
        else:
            file.replace(place)


def _move(store: Path, source: str, target: str, key: str) -> list[Path]:
    """Move a recording's files; their new places."""
    (store / target).mkdir(exist_ok=True)
    moved = []
    for suffix in (".bin", ".json"):
        file = store / source / f"{key}{suffix}"
        if file.exists():
            moved.append(file.replace(store / target / file.name))
    return moved
