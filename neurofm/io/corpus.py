"""A corpus: a dataset card, the folder it is in, and the reader that opens it.

`open_corpus("eegmmidb")` finds the card and the folder; `Corpus.load` reads a recording, names its
events by the card's rules and stops if the amplitudes cannot be what the file says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neurofm import cards
from neurofm.io.contacts import depth_problem
from neurofm.io.fetch import client_of, data_home
from neurofm.io.quality import (
    Problem,
    channel_problems,
    collect,
    listed,
    position_problem,
    report,
    silence_problem,
)
from neurofm.io.rules import check_rules, label_events, same_entity
from neurofm.io.sidecars import read_participants
from neurofm.types import Reader, Recording, Signal
from neurofm.units import check_amplitude


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

    def participants(self) -> dict[str, dict[str, Any]]:
        """Subject -> what the corpus says about the person (age, sex, group, ...).

        From the reader if it knows, else from a `participants.tsv` in the corpus's folder.
        """
        known = getattr(self.reader, "participants", None)
        if known is not None:
            return dict(known())
        return {} if self.root is None else read_participants(self.root)

    def load(
        self, recording: Recording, *, strict: bool = False, tolerated: Sequence[str] = ()
    ) -> Signal:
        """One recording in working units, its events named by the card.

        Warns about NaN and flat channels and unknown positions.

        Args:
            recording: Of this corpus.
            strict: Raise instead where something would be repaired or left out with a warning.
            tolerated: Codes of problems that are warnings all the same, such as "no_position".

        Raises:
            ValueError: Amplitudes that are implausible for the kind of channel, a damaged file, or
                with `strict` any problem.
        """
        if not strict:
            return self._checked(self.reader.load(recording), recording)
        with collect() as problems:
            signal = self._checked(self.reader.load(recording), recording)
        refused = [p for p in problems if p.severity != "info" and p.code not in tolerated]
        where = str(recording.path or recording.id)
        if refused:
            raise ValueError(
                f"{where}: refused, because strict: {' '.join(map(str, refused))} (tolerate by "
                f"code: {', '.join(p.code for p in refused)})."
            )
        for problem in problems:
            report(problem, where)
        return signal

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
        problems += [silence_problem(signal), _late_events(signal)]
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
    if "fetch" in card:
        client_of(card, where=str(file))
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
    if card.get("fetch") is not None:
        lines.append(f"`neurofm fetch {name} --subjects ...` fetches it.")
    if card.get("url"):
        lines.append(f"The publisher's page is {card['url']}.")
    return " ".join(lines)
