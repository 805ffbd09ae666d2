"""Data sets of MOABB as recordings, without a card of their own for each.

MOABB knows where a data set lies, downloads it, and says which markers are trials and when a trial
begins. Recordings are its runs; events are its trials, from the moment that MOABB calls zero, so
that windows cut at them are MOABB's own epochs.

MOABB keeps the files (folder `MNE_DATA`). It says which sessions and runs a person has only by
opening them: name `subjects` and `layout` for large data sets.

Source: Jayaram & Barachant 2018 (MOABB).
Axes: channel time.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from neurofm.compat import optional
from neurofm.io.meeg import signal_from_raw
from neurofm.io.quality import listed
from neurofm.types import Recording, Signal

_MICRO = 1e-6


class MOABBReader:
    """Recordings of one of MOABB's data sets.

    Args:
        source: Name of a class in `moabb.datasets`, such as "BNCI2014_001"; or, in Python, a data
            set, which then has to be picklable where several processes prepare it.
        dataset: Name of the corpus; MOABB's code of the data set if not given.
        root: Not used: MOABB keeps its files where `MNE_DATA` says. A card says `folder: null`.
        arguments: Of the class's constructor, with a name as source.
        subjects: MOABB's numbers of the people who count; everybody if not given.
        layout: Session -> runs, the same for everybody: nothing is then opened, nor downloaded,
            only to list the recordings.
        montage: As in `FolderReader`, like the following.

    Raises:
        ImportError: MOABB is not installed; the message names the extra.
        ValueError: No such data set, or a `root`.
    """

    def __init__(
        self,
        source: Any,
        *,
        dataset: str | None = None,
        root: Path | str | None = None,
        arguments: Mapping[str, Any] | None = None,
        subjects: Sequence[int] | None = None,
        layout: Mapping[str, Sequence[str]] | None = None,
        montage: str | None = "standard_1005",
        standardize: bool = False,
        rename: Mapping[str, str] | None = None,
        kinds: Mapping[str, str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        if root is not None:
            raise ValueError(
                f"MOABBReader: MOABB keeps {source} in its own folder, not in {root}. Set MNE_DATA "
                "to move that, and write `folder: null` into the card."
            )
        if arguments and not isinstance(source, str):
            raise ValueError("MOABBReader: `arguments` are of a class; this is a data set already.")
        self.source, self.arguments = source, dict(arguments or {})
        self.subjects = subjects
        self.layout = None if layout is None else {str(k): list(v) for k, v in layout.items()}
        self._channels: dict[str, Any] = {
            "montage": montage,
            "standardize": standardize,
            "rename": rename,
            "kinds": kinds,
            "exclude": tuple(exclude),
        }
        self.dataset = str(self.moabb.code) if dataset is None else dataset
        self._held: tuple[int, dict[str, dict[str, Any]]] | None = None
        self._found: list[Recording] | None = None

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "_held": None}
        if isinstance(self.source, str):
            state.pop("moabb", None)
        return state

    @cached_property
    def moabb(self) -> Any:
        """MOABB's data set."""
        if not isinstance(self.source, str):
            return self.source
        module = optional("moabb.datasets")
        found = getattr(module, self.source, None)
        base = optional("moabb.datasets.base").BaseDataset
        if not inspect.isclass(found) or not issubclass(found, base):
            known = [n for n, v in vars(module).items() if inspect.isclass(v)]
            near = [name for name in known if name.lower()[:4] == self.source.lower()[:4]]
            raise ValueError(
                f"MOABBReader: MOABB has no data set {self.source!r}"
                f"{f'; there are {listed(near)}' if near else ''}."
            )
        return found(**self.arguments)

    def recordings(self) -> list[Recording]:
        """All recordings; without a `layout`, everybody's are opened one after the other.

        Raises:
            ValueError: A subject that MOABB does not know.
        """
        if self._found is None:
            self._found = [
                Recording(self.dataset, str(subject), session=session, run=run)
                for subject in self._people()
                for session, runs in (self.layout or self._of(subject)).items()
                for run in map(str, runs)
            ]
        return list(self._found)

    def load(self, recording: Recording) -> Signal:
        """One recording in working units; its trials begin when MOABB's do.

        Raises:
            ValueError: MOABB has no such run.
        """
        subject = next((s for s in self._people() if str(s) == recording.subject), None)
        runs = {} if subject is None else self._of(subject)
        try:
            raw = runs[str(recording.session)][str(recording.run)]
        except KeyError as error:
            there = {session: list(own) for session, own in runs.items()}
            raise ValueError(
                f"{recording.id}: MOABB's {self.moabb.code} has {there or 'nobody of this name'}. "
                "Correct `subjects` or `layout` in the card's reader."
            ) from error
        # MOABB multiplies by this factor to get microvolts.
        volts = float(getattr(self.moabb, "unit_factor", 1 / _MICRO)) * _MICRO
        return signal_from_raw(raw, recording, unit=volts, **self._channels)

    def _people(self) -> list[int]:
        known = list(self.moabb.subject_list)
        unknown = sorted(set(self.subjects or ()) - set(known))
        if unknown:
            raise ValueError(
                f"{self.dataset}: MOABB knows no subjects {listed(list(map(str, unknown)))}; there "
                f"are {listed(list(map(str, known)), most=20)}."
            )
        return known if self.subjects is None else list(self.subjects)

    def _of(self, subject: int) -> dict[str, dict[str, Any]]:
        """Session -> run -> MNE Raw; of one person at a time."""
        if self._held is None or self._held[0] != subject:
            self._held = None  # let go of the one before first
            self._held = subject, self.moabb.get_data([subject])[subject]
        return self._held[1]
