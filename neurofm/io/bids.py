"""BIDS trees: EEG, MEG, iEEG and fMRI with everything their sidecars say.

A recording is found by its name; kinds, bad channels, positions, events, repetition time, the
person and the visit come from the sidecars that apply to it (`neurofm.io.sidecars`), inherited ones
included. Derivatives such as fMRIPrep's are read with their mask and nuisance signals, and with the
events of the raw data they were made from.

Source: Brain Imaging Data Structure 1.10; MNE-BIDS (Appelhoff et al. 2019); fMRIPrep (Esteban et
al. 2019) for the names of derivatives.
Axes: channel time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.io import sidecars as bids
from neurofm.io.contacts import read_electrodes
from neurofm.io.formats import SUFFIXES
from neurofm.io.integrity import check_file
from neurofm.io.meeg import signal_from_raw
from neurofm.io.quality import Problem, listed, report
from neurofm.io.readers import path_of
from neurofm.io.sidecars import sidecars as sidecars
from neurofm.types import Recording, Signal

_FOLDER = {"eeg": "eeg", "meg": "meg", "ieeg": "ieeg", "bold": "func"}
_IMAGES = (".nii.gz", ".nii", ".dtseries.nii", ".ptseries.nii")
# BIDS channel type -> kind. MEG types are left to the file, which knows its coils.
_KIND_OF_TYPE = {
    "EEG": "eeg",
    "SEEG": "seeg",
    "DBS": "seeg",
    "ECOG": "ecog",
    "EOG": "eog",
    "HEOG": "eog",
    "VEOG": "eog",
    "EYEGAZE": "other",
    "PUPIL": "other",
    "EMG": "emg",
    "ECG": "ecg",
}
_NAMING = ("sub", "ses", "task", "run")  # entities a `Recording` has a field for
_KEPT = ("BAD", "EDGE")  # annotations of the file itself that an events table does not replace


class BIDSReader:
    """A BIDS tree: sidecars give kinds, units, positions and events.

    Recordings of an empty room are left out. Where several recordings differ only in entities that
    a `Recording` has no field for (acquisition, space, ...), these are added to its run.

    Args:
        dataset: Name of the corpus.
        root: Folder that holds `dataset_description.json`.
        datatype: "eeg", "meg", "ieeg" or "bold"; all of them if None.
        derivative: Name of the folder below `derivatives/` to read instead of the raw data, such as
            "fmriprep".
        task: Only this task, like the further entities.
        space: Of derivatives; for iEEG the space of the electrode table.
        event_column: Column of `events.tsv` that names the events; by default the first of
            trial_type, stim_type, event_type and value.
        montage: As for `FolderReader`, like the further arguments.
        mask: Of images: a path below the root; fMRIPrep's brain mask by default.
        atlas: Of images: a labelled image below the root, read as one channel per parcel.
        confounds: Columns of fMRIPrep's table of nuisance signals to keep as channels.
    """

    def __init__(
        self,
        *,
        dataset: str,
        root: Path | str,
        datatype: str | None = None,
        derivative: str | None = None,
        task: str | None = None,
        session: str | None = None,
        run: str | None = None,
        acquisition: str | None = None,
        space: str | None = None,
        desc: str | None = None,
        event_column: str | None = None,
        montage: str | None = None,
        standardize: bool = False,
        rename: Mapping[str, str] | None = None,
        kinds: Mapping[str, str] | None = None,
        exclude: Sequence[str] = (),
        unit: str | float | Mapping[str, str | float] | None = None,
        event_channel: str | None = None,
        mask: str | None = None,
        atlas: str | None = None,
        confounds: Sequence[str] = (),
    ) -> None:
        if datatype is not None and datatype not in _FOLDER:
            raise ValueError(
                f"{dataset}: datatype {datatype!r} is not one of {listed([*_FOLDER])}."
            )
        self.dataset = dataset
        self.root = Path(root)
        self.datatype = datatype
        self.derivative = derivative
        self.wanted = {
            key: value
            for key, value in {
                "task": task,
                "ses": session,
                "run": run,
                "acq": acquisition,
                "space": space,
                "desc": desc,
            }.items()
            if value is not None
        }
        self.event_column = event_column
        self.montage = montage
        self.standardize = standardize
        self.rename = rename
        self.kinds = kinds
        self.exclude = tuple(exclude)
        self.unit = unit
        self.event_channel = event_channel
        self.mask = mask
        self.atlas = atlas
        self.confounds = tuple(confounds)
        self._people: dict[str, dict[str, Any]] | None = None

    @property
    def folder(self) -> Path:
        """Where the recordings are: the root, or the derivative's folder below it."""
        return self.root / "derivatives" / self.derivative if self.derivative else self.root

    def recordings(self) -> list[Recording]:
        """All recordings, by file name; sidecars are not opened.

        Raises:
            FileNotFoundError: The folder is missing, or nothing in it is a recording.
        """
        types = [self.datatype] if self.datatype else list(_FOLDER)
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"{self.folder}: no such folder; expected the BIDS tree of {self.dataset}."
            )
        paths = [path for path in self._files(types) if self._asked_for(path, types)]
        if not paths:
            asked = "".join(f" with {key}-{value}" for key, value in self.wanted.items())
            raise FileNotFoundError(
                f"{self.folder}: no {' or '.join(types)} recording in BIDS layout{asked} "
                "(sub-*/[ses-*/]eeg/sub-*_eeg.edf and the like)."
            )
        return self._named(paths)

    def _files(self, types: Sequence[str]) -> Iterator[Path]:
        for subject in sorted(self.folder.glob("sub-*")):
            for place in (subject, *sorted(subject.glob("ses-*"))):
                for name in dict.fromkeys(_FOLDER[kind] for kind in types):
                    yield from sorted((place / name).glob("sub-*"))

    def _asked_for(self, path: Path, types: Sequence[str]) -> bool:
        kind = bids.suffix_word(path.name)
        allowed = _IMAGES if kind == "bold" else SUFFIXES
        if kind not in types or path.parent.name != _FOLDER[kind]:
            return False
        extension = bids.extension_of(path.name).lower()
        if extension not in allowed:
            return False
        entities = bids.entities_of(path.name)
        if entities.get("split", "01").lstrip("0") != "1" or entities["sub"] == "emptyroom":
            return False  # MNE follows the first part of a split file to the others
        wanted = {k: v for k, v in self.wanted.items() if k != "space" or kind == "bold"}
        return all(_same(entities.get(key), value) for key, value in wanted.items())

    def _named(self, paths: Sequence[Path]) -> list[Recording]:
        every = [bids.entities_of(path.name) for path in paths]
        counts = Counter(tuple(item.get(key) for key in _NAMING) for item in every)
        found = []
        for path, entities in zip(paths, every, strict=True):
            run = entities.get("run")
            if counts[tuple(entities.get(key) for key in _NAMING)] > 1:
                more = [f"{k}-{v}" for k, v in entities.items() if k not in (*_NAMING, "split")]
                more += [] if self.datatype else [bids.suffix_word(path.name)]
                run = "_".join([*([run] if run else []), *more])
            found.append(
                Recording(
                    dataset=self.dataset,
                    subject=entities["sub"],
                    session=entities.get("ses"),
                    task=entities.get("task"),
                    run=run,
                    path=path,
                )
            )
        twice = [name for name, n in Counter(item.id for item in found).items() if n > 1]
        if twice:
            raise ValueError(
                f"{self.folder}: several files are the recording {listed(twice)}, in different "
                "formats. Remove all but one of each."
            )
        return found

    def participants(self) -> dict[str, dict[str, Any]]:
        """Subject -> what `participants.tsv` says (age, sex, group, ...); empty without one."""
        if self._people is None:
            folders = [self.folder, self.root]
            if self.folder.parent.name == "derivatives":
                folders.append(self.folder.parent.parent)
            tables = (bids.read_participants(folder) for folder in folders)
            self._people = next((table for table in tables if table), {})
        return self._people

    def load(self, recording: Recording) -> Signal:
        """One recording with its sidecars.

        Raises:
            ValueError: The recording or a sidecar cannot be read, or they disagree.
        """
        path = path_of(recording)
        check_file(path)
        if bids.suffix_word(path.name) == "bold":
            from neurofm.io.mri.fmri import read_bold

            signal = read_bold(path, recording, **self._image_arguments(path))
        else:
            signal = self._load_electric(path, recording)
        return self._described(signal, path)

    def slabs(self, recording: Recording, *, max_bytes: int) -> Iterator[Signal]:
        """As `Corpus.slabs`: images in groups of voxels, other recordings whole."""
        path = path_of(recording)
        if bids.suffix_word(path.name) != "bold":
            yield self.load(recording)
            return
        from neurofm.io.mri.fmri import bold_slabs

        check_file(path)
        arguments = self._image_arguments(path)
        for signal in bold_slabs(path, recording, max_bytes=max_bytes, **arguments):
            yield self._described(signal, path)

    def sources(self, recording: Recording) -> list[Path]:
        """Images the card names that decide what a recording is read as."""
        if bids.suffix_word(path_of(recording).name) != "bold":
            return []
        return [self.root / name for name in (self.mask, self.atlas) if name is not None]

    def _image_arguments(self, path: Path) -> dict[str, Any]:
        events = bids.events_of(path, self.folder)
        mask = self.root / self.mask if self.mask else bids.mask_of(path, self.folder)
        confounds = bids.confounds_of(path, self.folder) if self.confounds else None
        if self.confounds and confounds is None:
            raise ValueError(
                f"{path}: no table of nuisance signals (*_desc-confounds_timeseries.tsv) beside "
                "it. Read fMRIPrep's derivative, or leave `confounds` out of the card's reader."
            )
        return {
            "mask": mask,
            "atlas": self.root / self.atlas if self.atlas else None,
            "sidecar": bids.metadata(path, self.folder),
            "events": bids.read_events(events, column=self.event_column) if events else (),
            "confounds": confounds,
            "confound_columns": self.confounds or None,
        }

    def _load_electric(self, path: Path, recording: Recording) -> Signal:
        import mne_bids

        table_path = bids.nearest(path, self.folder, "channels", ".tsv")
        table = bids.read_table(table_path) if table_path else {}
        events = bids.events_of(path, self.folder)
        given = None if events is None else bids.read_events(events, column=self.event_column)
        try:
            place = mne_bids.get_bids_path_from_fname(path, check=False, verbose="ERROR")
            raw = mne_bids.read_raw_bids(place, on_ch_mismatch="warn", verbose="ERROR")
        except (RuntimeError, KeyError, ValueError, IndexError, TypeError) as error:
            raise ValueError(f"{path}: its BIDS sidecars cannot be read ({error}).") from error
        unknown = [name for name in table.get("name", []) if name not in raw.ch_names]
        if unknown:
            problem = Problem(
                "warning",
                f"{table_path.name if table_path else ''} describes {len(unknown)} channels that "
                f"are not in the recording: {listed(unknown)}.",
                "Their kinds and bad channels are not applied: correct the table.",
                "unknown_channels",
            )
            report(problem, str(path))
        try:
            signal = signal_from_raw(
                raw,
                recording,
                montage=self.montage,
                standardize=self.standardize,
                rename=self.rename,
                kinds={**_kinds(table, self.rename or {}), **(self.kinds or {})},
                exclude=(*self.exclude, *_triggers(table)),
                unit=self.unit,
                event_channel=self.event_channel if given is None else None,
            )
        except KeyError as error:  # MNE, of a type that does not go with its unit
            raise ValueError(
                f"{path}: {table_path or 'its sidecars'} declare a type or unit of a channel that "
                f"cannot be ({error}). Correct them."
            ) from error
        if given is not None:
            own = [event for event in signal.events if event.label.upper().startswith(_KEPT)]
            merged = sorted([*given, *own], key=lambda event: event.onset)
            signal = replace(signal, events=tuple(dict.fromkeys(merged)))
        if bids.suffix_word(path.name) == "ieeg":
            signal = self._placed(signal, path)
        return self._with_bads(signal, bids.bad_channels(table), path)

    def _placed(self, signal: Signal, path: Path) -> Signal:
        """Positions and regions of contacts as the table of electrodes has them, in its space."""
        tables = bids.applying(path, self.folder, "electrodes", ".tsv")
        space = self.wanted.get("space")
        if space is not None:
            tables = [t for t in tables if bids.entities_of(t.name).get("space") == space]
        # Of several spaces a common one: positions of different people can then be compared.
        table = next(iter(sorted(tables, key=lambda file: "space-MNI" not in file.name)), None)
        if table is None:
            return signal
        systems = bids.applying(table, self.folder, "coordsystem", ".json", free=())
        found = read_electrodes(table, next(iter(systems), None))
        place = {name: i for i, name in enumerate(found.names)}
        rename = {new: old for old, new in (self.rename or {}).items()}
        index = [place.get(rename.get(name, name), -1) for name in signal.sensors.names]
        known = np.array(index) >= 0
        position = np.full((len(index), 3), np.nan)
        position[known] = found.position[np.array(index)[known]]
        region = tuple(found.region[i] if i >= 0 else "" for i in index) if found.region else ()
        sensors = replace(signal.sensors, position=position, frame=found.frame, region=region)
        details = {**signal.details, **({"space": found.space} if found.space else {})}
        return replace(signal, sensors=sensors, details=details)

    def _with_bads(self, signal: Signal, marked: Sequence[str], path: Path) -> Signal:
        rename = dict(self.rename or {})
        bad = [name for name in (rename.get(n, n) for n in marked) if name in signal.sensors.names]
        if not bad:
            return signal
        problem = Problem(
            "info",
            f"{len(bad)} of {len(signal.sensors)} channels are marked as bad: {listed(bad)}.",
            "They are read all the same and listed in `details['bad_channels']`.",
            "marked_bad",
        )
        report(problem, str(path))
        return replace(signal, details={**signal.details, "bad_channels": bad})

    def _described(self, signal: Signal, path: Path) -> Signal:
        entities = bids.entities_of(path.name)
        details: dict[str, Any] = {
            k: v for k, v in entities.items() if k not in (*_NAMING, "split") and v
        }
        person = self.participants().get(signal.recording.subject)
        if person:
            details["participant"] = person
        for place, top in bids.trees(path, self.folder):
            when = bids.acquisition_time(place, top)
            if when is not None:
                details["acq_time"] = when
        return replace(signal, details={**details, **signal.details})


def _same(one: str | None, other: str) -> bool:
    """Whether two entity values are the same: as numbers if both are ("4" is "04")."""
    if one is not None and one.isdecimal() and str(other).isdecimal():
        return int(one) == int(other)
    return one == str(other)


def _kinds(table: Mapping[str, Sequence[str]], rename: Mapping[str, str]) -> dict[str, str]:
    """Kind of each channel a `channels.tsv` names, as `FolderReader` takes them."""
    pairs = zip(table.get("name", []), table.get("type", []), strict=False)
    return {
        rename.get(name, name).replace("[", "[[]"): _KIND_OF_TYPE[kind.upper()]
        for name, kind in pairs
        if kind.upper() in _KIND_OF_TYPE
    }


def _triggers(table: Mapping[str, Sequence[str]]) -> list[str]:
    """Channels that a `channels.tsv` declares as triggers or clocks."""
    pairs = zip(table.get("name", []), table.get("type", []), strict=False)
    return [name for name, kind in pairs if kind.upper() in ("TRIG", "SYSCLOCK")]
