"""THINGS-fMRI (single-trial responses as tables) and THINGS-MEG (preprocessed epochs).

fMRI: `sub-01_ResponseData.h5` (a table of pandas, voxel by trial), `sub-01_StimulusMetadata.csv`
(picture, session, run and type of each trial) and `sub-01_VoxelMetadata.csv` (voxel indices and
regions). MEG: `preprocessed_P1-epo.fif` with the trials described in the file or in
`sourcedata/sample_attributes_P1.csv`. Pictures are called by their file (`dog_12s`), categories by
what is before the last "_". Trials of type "test" are those of the shared pictures; catch trials
are left out.

Source: Hebart et al. 2023, and the usage notes published with the data.
Axes: trial channel [time]; stimulus, 3 height width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.compat import optional
from neurofm.io.integrity import check_file
from neurofm.io.meeg import signal_from_raw
from neurofm.io.mri.images import open_image
from neurofm.io.quality import listed
from neurofm.io.responses.trials import (
    as_signal,
    read_pictures,
    read_table,
    require_person,
)
from neurofm.shapes import Float
from neurofm.types import Recording, Responses, Sensors, Signal
from neurofm.units import Kind

_NO_REGION = re.compile(r"(voxel_|subject_id|nc_|splithalf|prf-)")


class _Pictures:
    """Pictures of THINGS: a folder per category."""

    root: Path
    size: int
    dataset: str
    images_folder: str

    def images(self, names: Sequence[str]) -> Float[np.ndarray, "stimulus 3 height width"]:
        """Pictures by name, 0 to 1.

        Raises:
            FileNotFoundError: Pictures are missing.
        """
        places = (self.root / self.images_folder, self.root.parent / self.images_folder)
        files = {}
        for name in dict.fromkeys(names):
            for place in places:
                path = place / category_of(name) / f"{name}.jpg"
                if path.is_file():
                    files[name] = path
        return read_pictures(files, names, size=self.size, where=str(places[0]))

    def categories_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The concept of each picture."""
        return tuple(category_of(name) for name in names)


class ThingsFMRIReader(_Pictures):
    """Single-trial responses of THINGS-fMRI.

    Args:
        dataset: Name of the corpus.
        root: Folder with the tables, or one with a folder `betas_csv`.
        regions: Keep voxels of these regions (columns of the table of voxels); all 200,000 if not
            given, which takes 8 GB for a person.
        mask: Brain mask below the root with `{subject}`, whose affine places the voxels; where it
            is not there, places stay unknown.
        images: Folder of the pictures, below the root or beside it.
        size: Of pictures, pixels.
    """

    def __init__(
        self,
        *,
        dataset: str,
        root: Path | str,
        regions: Sequence[str] | None = None,
        mask: str = "brainmasks/sub-{subject}_space-T1w_brainmask.nii.gz",
        images: str = "THINGS-images",
        size: int = 128,
    ) -> None:
        self.dataset, self.root, self.size = dataset, Path(root), size
        self.regions = None if regions is None else list(regions)
        self.mask, self.images_folder = mask, images

    @property
    def _folder(self) -> Path:
        inner = self.root / "betas_csv"
        return inner if inner.is_dir() else self.root

    def recordings(self) -> list[Recording]:
        """One per person and session.

        Raises:
            FileNotFoundError: There is no table of responses.
        """
        found = []
        for path in sorted(self._folder.glob("sub-*_ResponseData.h5")):
            subject = path.name.split("_")[0].removeprefix("sub-")
            sessions = self._trials(subject)["session"]
            found += [
                Recording(self.dataset, subject, session=session, task="things", path=path)
                for session in sorted(set(sessions), key=lambda s: int(float(s)))
            ]
        if not found:
            raise FileNotFoundError(
                f"{self._folder}: no file sub-*_ResponseData.h5. The single-trial responses in "
                "table format are at https://doi.org/10.25452/figshare.plus.c.6161151."
            )
        return found

    def people(self) -> list[str]:
        """Numbers of the people: "01", ..."""
        return list(dict.fromkeys(item.subject for item in self.recordings()))

    def responses(self, subject: str) -> Responses:
        """All sessions of one person.

        Raises:
            ValueError: Nobody of this name, or tables that do not fit each other.
        """
        name = require_person(subject, self.people(), dataset=self.dataset)
        return Responses.joined([self._session(r) for r in self.recordings() if r.subject == name])

    def load(self, recording: Recording) -> Signal:
        """One session: a sample per trial."""
        return as_signal(self._session(recording), recording, history="single-trial responses")

    def shared(self) -> tuple[str, ...]:
        """The pictures of test trials."""
        found: dict[str, None] = {}
        for subject in self.people():
            trials = self._trials(subject)
            pairs = zip(trials["stimulus"], trials["trial_type"], strict=True)
            found |= {Path(s).stem: None for s, kind in pairs if kind == "test"}
        return tuple(sorted(found))

    def _trials(self, subject: str) -> dict[str, list[str]]:
        path = self._folder / f"sub-{subject}_StimulusMetadata.csv"
        return read_table(path, ("trial_type", "session", "run", "stimulus"))

    def _session(self, recording: Recording) -> Responses:
        if recording.path is None:
            raise ValueError(f"{recording.id}: a recording without a file; see `recordings()`.")
        trials = self._trials(recording.subject)
        rows = np.flatnonzero(np.array(trials["session"]) == recording.session)
        voxels, sensors = self._voxels(recording.subject)
        values = _table_values(recording.path, voxels, rows, len(trials["session"]))
        session = int(float(str(recording.session)))
        return Responses(
            values=values,
            stimulus=tuple(Path(trials["stimulus"][i]).stem for i in rows),
            run=tuple(f"{session:02d}-{int(float(trials['run'][i])):02d}" for i in rows),
            sensors=sensors,
            recording=recording,
            unit="arbitrary",
        )

    def _voxels(self, subject: str) -> tuple[np.ndarray, Sensors]:
        """Rows of the table that are kept, and what they are."""
        path = self._folder / f"sub-{subject}_VoxelMetadata.csv"
        table = read_table(path, ("voxel_id", "voxel_x", "voxel_y", "voxel_z"))
        n = len(table["voxel_id"])
        known = [name for name in table if not _NO_REGION.match(name)]
        wanted = known if self.regions is None else self.regions
        missing = [name for name in wanted if name not in known]
        if missing:
            raise ValueError(f"{path}: no region {listed(missing)}; there are {listed(known)}.")
        region = np.full(n, "", dtype=object)
        for name in reversed(wanted):
            region[[value not in ("0", "0.0", "") for value in table[name]]] = name
        keep = np.arange(n) if self.regions is None else np.flatnonzero(region != "")
        if not len(keep):
            raise ValueError(f"{path}: no voxel is in {listed(wanted)}.")
        place = self.root / self.mask.format(subject=subject)
        position, frame = np.full((len(keep), 3), np.nan), "unknown"
        if place.is_file():
            image = open_image(place)
            index = np.stack([np.array(table[f"voxel_{a}"], dtype=float) for a in "xyz"], axis=1)
            position = (index[keep] @ image.affine[:3, :3].T + image.affine[:3, 3]) / 1000.0
            frame = image.frame
        sensors = Sensors(
            names=tuple(f"v{table['voxel_id'][i]}" for i in keep),
            kind=np.full(len(keep), int(Kind.BOLD), dtype=np.int8),
            position=position,
            orientation=np.zeros((len(keep), 3)),
            frame=frame,
            region=tuple(str(region[i]) for i in keep),
        )
        return keep, sensors


def _table_values(
    path: Path, voxels: np.ndarray, trials: np.ndarray, n_trials: int
) -> Float[np.ndarray, "trial voxel"]:
    """Some trials of some voxels out of pandas' fixed format, without pandas.

    The block of floating-point columns holds the trials; the number of the voxel is another block.
    """
    check_file(path)
    h5py = optional("h5py")
    try:
        with h5py.File(path, "r") as file:
            group: Any = next(g for g in file.values() if "block0_values" in g)
            blocks = [
                group[name]
                for name in group
                if re.fullmatch(r"block\d+_values", name) and group[name].dtype.kind == "f"
            ]
            fits = [block for block in blocks if block.shape[1] == n_trials]
            if not fits:
                raise ValueError(
                    f"{path}: {' and '.join(str(b.shape) for b in blocks) or 'no'} numbers for "
                    f"{n_trials} trials in the list of stimuli; expected a column per trial."
                )
            block = fits[0]
            if int(voxels.max()) >= block.shape[0]:
                raise ValueError(
                    f"{path}: {block.shape[0]} voxels, but the list of voxels goes to "
                    f"{int(voxels.max()) + 1}."
                )
            values = np.empty((len(trials), len(voxels)), dtype=np.float32)
            low, high = int(trials.min()), int(trials.max()) + 1
            for lo in range(0, block.shape[0], 4096):
                here = np.flatnonzero((voxels >= lo) & (voxels < lo + 4096))
                if len(here):
                    part = block[lo : lo + 4096, low:high]
                    values[:, here] = part[voxels[here] - lo][:, trials - low].T
            return values
    except (OSError, StopIteration) as error:
        raise ValueError(
            f"{path}: no table in pandas' fixed format ({type(error).__name__}: {error}). Fetch it "
            "again, or write it with `DataFrame.to_hdf(..., format='fixed')`."
        ) from error


class ThingsMEGReader(_Pictures):
    """Preprocessed epochs of THINGS-MEG.

    Args:
        dataset: Name of the corpus.
        root: Folder of the BIDS data set (ds004212), or of the epochs.
        start_s: First sample that is kept, from when a picture appears.
        stop_s: Last one.
        decimate: Keep every so many samples; the published epochs are low-pass filtered.
        unit: What the numbers are: the published epochs are in standard deviations of the baseline.
        images: Folder of the pictures, below the root or beside it.
        size: Of pictures, pixels.
    """

    def __init__(
        self,
        *,
        dataset: str,
        root: Path | str,
        start_s: float = -0.1,
        stop_s: float = 0.8,
        decimate: int = 1,
        unit: str = "z",
        images: str = "THINGS-images",
        size: int = 128,
    ) -> None:
        self.dataset, self.root, self.size = dataset, Path(root), size
        self.start_s, self.stop_s, self.decimate, self.unit = start_s, stop_s, decimate, unit
        self.images_folder = images

    def recordings(self) -> list[Recording]:
        """One per person and session.

        Raises:
            FileNotFoundError: There are no epochs.
        """
        found = []
        inner = self.root / "derivatives" / "preprocessed"
        folder = inner if inner.is_dir() else self.root
        for path in sorted(folder.glob("preprocessed_P*-epo.fif")):
            subject = re.sub(r"preprocessed_P(.*)-epo\.fif", r"\1", path.name)
            sessions = self._trials(subject)["session_nr"]
            found += [
                Recording(self.dataset, subject, session=session, task="things", path=path)
                for session in sorted(set(sessions), key=lambda s: int(float(s)))
            ]
        if not found:
            raise FileNotFoundError(
                f"{folder}: no file preprocessed_P*-epo.fif. They are in derivatives/preprocessed "
                "of https://openneuro.org/datasets/ds004212."
            )
        return found

    def people(self) -> list[str]:
        """Numbers of the people: "1", ..."""
        return list(dict.fromkeys(item.subject for item in self.recordings()))

    def responses(self, subject: str) -> Responses:
        """All sessions of one person.

        Raises:
            ValueError: Nobody of this name, or a list of another length than the epochs.
        """
        name = require_person(subject, self.people(), dataset=self.dataset)
        return Responses.joined([self._session(r) for r in self.recordings() if r.subject == name])

    def load(self, recording: Recording) -> Signal:
        """One session: epochs after each other."""
        return as_signal(self._session(recording), recording, history="preprocessed epochs")

    def shared(self) -> tuple[str, ...]:
        """The pictures of test trials."""
        found: set[str] = set()
        for subject in self.people():
            trials = self._trials(subject)
            pairs = zip(trials["image_path"], trials["trial_type"], strict=True)
            found |= {Path(s).stem for s, kind in pairs if kind == "test"}
        return tuple(sorted(found))

    def _trials(self, subject: str) -> dict[str, list[str]]:
        name = f"sample_attributes_P{subject}.csv"
        places = (self.root / "sourcedata" / name, self.root / name)
        path = next((place for place in places if place.is_file()), places[0])
        return read_table(path, ("trial_type", "image_path", "session_nr", "run_nr"))

    def _session(self, recording: Recording) -> Responses:
        import mne

        path = recording.path
        if path is None:
            raise ValueError(f"{recording.id}: a recording without a file; see `recordings()`.")
        check_file(path)
        trials = self._trials(recording.subject)
        epochs = mne.read_epochs(path, preload=False, proj=False, verbose="ERROR")
        if len(epochs) != len(trials["session_nr"]):
            raise ValueError(
                f"{path}: {len(epochs)} epochs for {len(trials['session_nr'])} trials in the list "
                "of stimuli; expected one of each. Fetch both of the same version again."
            )
        of_session = np.array(trials["session_nr"]) == recording.session
        shown = np.array([kind != "catch" for kind in trials["trial_type"]])
        rows = np.flatnonzero(of_session & shown)
        with mne.use_log_level("ERROR"):
            part = epochs[rows].load_data().pick("meg")
        inside = (part.times >= self.start_s - 1e-9) & (part.times <= self.stop_s + 1e-9)
        keep = np.flatnonzero(inside)[:: self.decimate]
        if len(keep) < 2:
            raise ValueError(
                f"{path}: samples from {part.tmin:g} to {part.tmax:g} s, none from {self.start_s} "
                f"to {self.stop_s} s."
            )
        session = int(float(str(recording.session)))
        raw = mne.io.RawArray(np.zeros((len(part.ch_names), 2)), part.info, verbose="ERROR")
        return Responses(
            values=part.get_data(copy=False)[:, :, keep].astype(np.float32),
            stimulus=tuple(Path(trials["image_path"][i]).stem for i in rows),
            run=tuple(f"{session:02d}-{int(float(trials['run_nr'][i])):02d}" for i in rows),
            sensors=signal_from_raw(raw, recording).sensors,
            recording=recording,
            unit=self.unit,
            sfreq=float(part.info["sfreq"]) / self.decimate,
            start_s=float(part.times[keep[0]]),
        )


def category_of(name: str) -> str:
    """`dog` of `dog_12s`."""
    return name.rpartition("_")[0] or name
