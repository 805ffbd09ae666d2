"""A corpus: a dataset card, the folder it is in, and the reader that opens it.

`open_corpus("eegmmidb")` finds the card and the folder; `Corpus.load` reads a recording, names its
events by the card's rules and stops if the amplitudes cannot be what the file says.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from neurofm import cards
from neurofm.io.contacts import depth_problem
from neurofm.io.electrodes import positions_of, standard_name
from neurofm.io.formats import SUFFIXES
from neurofm.io.integrity import check_file, suffix_of
from neurofm.io.quality import Problem, channel_problems, listed, position_problem, report
from neurofm.io.readers import FolderReader
from neurofm.io.rules import check_rules, label_events, same_entity
from neurofm.types import Reader, Recording, Signal
from neurofm.units import Kind, check_amplitude

FETCHERS = ("eegbci",)


@dataclass(frozen=True)
class Corpus:
    """An opened corpus.

    Args:
        name: The card's name.
        card: Its contents.
        root: Folder of the recordings; None for simulations.
        reader: Finds and loads them.
    """

    name: str
    card: Mapping[str, Any]
    root: Path | None
    reader: Reader

    @property
    def line_freq(self) -> float | None:
        """Mains frequency where it was recorded, Hz; None if the card does not say."""
        value = self.card.get("line_freq")
        return None if value is None else float(value)

    def recordings(
        self,
        *,
        subjects: Sequence[str | int] | None = None,
        sessions: Sequence[str | int] | None = None,
        runs: Sequence[str | int] | None = None,
    ) -> list[Recording]:
        """Recordings of these subjects, sessions and runs (all if None), without reading their
        data.

        Numbers match however they are padded: 4 finds run "04".

        Raises:
            ValueError: A subject, session or run asked for is not there.
        """
        found = self.reader.recordings()
        for name, wanted in (("subject", subjects), ("session", sessions), ("run", runs)):
            if wanted is None:
                continue
            present = sorted({str(getattr(item, name)) for item in found})
            missing = [str(w) for w in wanted if not any(same_entity(w, p) for p in present)]
            if missing:
                raise ValueError(
                    f"{self.name}: {name} {listed(missing)} not found"
                    f"{f' in {self.root}' if self.root else ''}; there are "
                    f"{listed(present, most=20)}."
                )
            found = [
                item for item in found if any(same_entity(w, getattr(item, name)) for w in wanted)
            ]
        return found

    def load(self, recording: Recording) -> Signal:
        """One recording in working units, its events named by the card.

        Warns about NaN and flat channels and unknown positions.

        Raises:
            ValueError: Amplitudes that are implausible for the kind of channel, or a damaged file.
        """
        return self._checked(self.reader.load(recording), recording)

    def slabs(self, recording: Recording, *, max_bytes: int) -> Iterator[Signal]:
        """One recording as consecutive groups of its channels, each over the whole time.

        For recordings larger than memory: a reader that can read them in parts has a method `slabs`
        of this signature. Others give the whole recording as one slab, whatever its size.

        Args:
            max_bytes: Memory one slab may take, float32 samples counted.

        Raises:
            ValueError: As `load`.
        """
        parts = getattr(self.reader, "slabs", None)
        if parts is None:
            yield self.load(recording)
            return
        for signal in parts(recording, max_bytes=max_bytes):
            yield self._checked(signal, recording)

    def _checked(self, signal: Signal, recording: Recording) -> Signal:
        events = label_events(signal, self.card.get("events") or [], where=self.name)
        signal = replace(signal, events=events)
        where = str(recording.path or recording.id)
        if "unit" not in signal.details:  # else the numbers are not in the unit of their kind
            check_amplitude(signal.data, signal.sensors.kind, sfreq=signal.sfreq, where=where)
        problems = [*channel_problems(signal), position_problem(signal), depth_problem(signal)]
        problems.append(_late_events(signal))
        for problem in problems:
            if problem is not None:
                report(problem, where)
        return signal


def _late_events(signal: Signal) -> Problem | None:
    late = [event for event in signal.events if not -1e-6 <= event.onset < signal.duration]
    if not late:
        return None
    return Problem(
        "warning",
        f"{len(late)} of {len(signal.events)} events lie outside the {signal.duration:.1f} s of "
        "the "
        f"recording: {listed([f'{event.label} at {event.onset:.1f} s' for event in late])}.",
        "No window is cut there; the file may be incomplete.",
        "events_beyond_end",
    )


def data_home() -> Path:
    """Folder of all corpora: `$NEUROFM_DATA`, else `neurofm_data` in the home folder."""
    given = os.environ.get("NEUROFM_DATA")
    return Path(given) if given else Path.home() / "neurofm_data"


def open_corpus(
    name: str | Path, *, root: Path | None = None, trusted: tuple[str, ...] = ("neurofm",)
) -> Corpus:
    """Open a corpus by the name of its card, or by the path of a card of your own.

    Args:
        name: Such as "eegmmidb", or "my/card.yaml".
        root: Folder of the recordings; by default the card's `folder` in `$NEUROFM_DATA`.
        trusted: Packages whose reader a card may name.

    Raises:
        FileNotFoundError: No such card, or its recordings are not there.
        ValueError: The card is not valid.
    """
    file = cards.path("datasets", str(name))
    card = cards.read("datasets", str(name))
    check_rules(card.get("events") or [], where=str(file))
    spec = card["reader"]
    if not isinstance(spec, dict) or "class_path" not in spec:
        raise ValueError(f"{file}: `reader` needs a `class_path` and `init_args`.")
    folder = card.get("folder", file.stem)
    if root is None and folder is not None:
        root = data_home() / folder
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(_how_to_get(file.stem, card, Path(root)))
    arguments = {**(spec.get("init_args") or {}), "dataset": file.stem, "root": root}
    reader = cards.build({**spec, "init_args": arguments}, trusted=trusted)
    return Corpus(file.stem, card, None if root is None else Path(root), reader)


def _how_to_get(name: str, card: Mapping[str, Any], root: Path) -> str:
    lines = [f"{name}: no folder {root}."]
    if "NEUROFM_DATA" not in os.environ:
        lines.append(
            f"Set NEUROFM_DATA to the folder that holds {card.get('folder', name)!r}, or pass "
            "its path."
        )
    if card.get("fetch") in FETCHERS:
        lines.append(f"`neurofm demo --download` or `neurofm.io.fetch({name!r}, ...)` fetches it.")
    if card.get("url"):
        lines.append(f"The publisher's page is {card['url']}.")
    return " ".join(lines)


def open_path(path: Path | str) -> Corpus:
    """A corpus of one file, or of every readable file below a folder, without a card.

    Positions the files lack are taken from the 10-05 template where most EEG names are in it;
    trigger channels become events where there are no annotations.

    Raises:
        FileNotFoundError: Nothing there, or nothing in a format neurofm reads.
    """
    path = Path(path)
    if path.is_dir() and suffix_of(path) not in SUFFIXES:
        name = path.resolve().name
        return Corpus(name, {}, path, _AnyReader("**/*", dataset=name, root=path))
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file or folder, and no dataset card of that name (`neurofm list "
            "datasets`)."
        )
    if suffix_of(path) not in SUFFIXES:
        raise ValueError(
            f"{path}: {suffix_of(path) or 'no suffix'} is not a format neurofm reads without a "
            "card: "
            f"{', '.join(SUFFIXES)}."
        )
    reader = _AnyReader(path.name, dataset=path.resolve().parent.name, root=path.parent)
    return Corpus(path.name, {}, path.parent, reader)


class _AnyReader(FolderReader):
    """Files of unknown origin: a template montage only if most channel names are scalp sites."""

    def __init__(self, pattern: str, *, dataset: str, root: Path) -> None:
        super().__init__(pattern, dataset=dataset, root=root, event_channel="auto")

    def recordings(self) -> list[Recording]:
        return [item for item in super().recordings() if not _is_part(item.path)]

    def load(self, recording: Recording) -> Signal:
        signal = super().load(recording)
        sensors = signal.sensors
        free = np.flatnonzero((sensors.kind == Kind.EEG) & ~sensors.has_position)
        names = list(sensors.names)
        for i in free:
            names[i] = standard_name(names[i])
        position = sensors.position.copy()
        position[free] = positions_of([names[i] for i in free], "standard_1005")
        placed = int(np.isfinite(position[free]).all(axis=1).sum())
        if placed <= len(free) / 2 or len(set(names)) < len(names):
            return signal
        return replace(signal, sensors=replace(sensors, names=tuple(names), position=position))


def _is_part(path: Path | None) -> bool:
    """Whether MNE reaches this file through another: later parts of a split FIF, files in a .ds."""
    if path is None:
        return False
    if any(parent.suffix == ".ds" for parent in path.parents):
        return True
    stem, dash, number = path.name.removesuffix(".fif").rpartition("-")
    return bool(dash) and number.isdecimal() and (path.parent / f"{stem}.fif").exists()


def fetch(
    name: str, *, subjects: Sequence[int], runs: Sequence[int], root: Path | None = None
) -> list[Path]:
    """Download recordings of an open corpus through MNE's own client, into the card's layout.

    A file already there is kept; one that arrives is checked before it takes its name.

    Args:
        name: Card with a `fetch` field.
        subjects: Numbers, as the publisher counts.
        runs: Numbers.
        root: As in `open_corpus`.

    Raises:
        ValueError: The card names no fetcher, or what arrived is not a recording.
    """
    card = cards.read("datasets", name)
    if card.get("fetch") not in FETCHERS:
        raise ValueError(
            f"{name}: its card names no fetcher; get the recordings from "
            f"{card.get('url', 'the publisher')}."
        )
    root = data_home() / card.get("folder", name) if root is None else Path(root)
    pattern = card["reader"]["init_args"]["pattern"]
    paths = []
    for subject in subjects:
        for run in runs:
            target = root / pattern.format(subject=f"{subject:03d}", run=f"{run:02d}")
            if not target.exists():
                _fetch_one(int(subject), int(run), target)
            paths.append(target)
    return paths


def _fetch_one(subject: int, run: int, target: Path) -> None:
    import mne

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        (arrived,) = mne.datasets.eegbci.load_data(
            [subject], [run], path=folder, update_path=False, verbose="ERROR"
        )
        check_file(Path(arrived))
        part = target.with_name(f".{target.name}.part")
        shutil.move(arrived, part)
        os.replace(part, target)
