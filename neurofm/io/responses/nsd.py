"""Single-trial betas of the Natural Scenes Dataset, with the design and the pictures.

Below the root lie `nsddata`, `nsddata_betas` and `nsddata_stimuli` as on the publisher's server.
The picture of a trial is `subjectim[person, masterordering[trial]]` of the design, counted from 1;
pictures are called by their place in `nsd_stimuli.hdf5`, counted from 0: `nsd02950`. Betas are
stored as whole numbers, 300 times the percent signal change. A session is a run: betas are
estimated by session, and are put into z-scores by session.

Source: Allen et al. 2022; https://naturalscenesdataset.org (files and formats).
Axes: trial voxel; stimulus, 3 height width.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neurofm.compat import optional
from neurofm.io.integrity import check_file
from neurofm.io.matlab import open_mat
from neurofm.io.mri.images import Image
from neurofm.io.responses.trials import as_signal, require_person, square
from neurofm.io.responses.volumes import read_labels, read_mask, read_volumes, voxel_sensors
from neurofm.shapes import Float
from neurofm.types import Recording, Responses, Sensors, Signal

SCALE = 300.0
TRIALS = 750  # of a session
_STIMULI = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
_DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
_SESSION = re.compile(r"betas_session(\d+)\.(hdf5|nii\.gz)$")
# Labels of prf-visualrois, as published with it.
VISUAL = {1: "V1v", 2: "V1d", 3: "V2v", 4: "V2d", 5: "V3v", 6: "V3d", 7: "hV4"}


class NSDReader:
    """Betas of NSD.

    Args:
        dataset: Name of the corpus.
        root: Folder that holds `nsddata`, `nsddata_betas` and `nsddata_stimuli`.
        space: "func1pt8mm" or "func1mm".
        betas: Which version.
        mask: Image below a person's `roi` folder whose voxels above 0 are read.
        regions: Another image there, whose labels name voxels; None for no names.
        size: Of pictures, pixels.
    """

    def __init__(
        self,
        *,
        dataset: str,
        root: Path | str,
        space: str = "func1pt8mm",
        betas: str = "betas_fithrf_GLMdenoise_RR",
        mask: str = "nsdgeneral",
        regions: str | None = "prf-visualrois",
        size: int = 128,
    ) -> None:
        self.dataset, self.root = dataset, Path(root)
        self.space, self.betas, self.mask, self.regions = space, betas, mask, regions
        self.size = size

    def recordings(self) -> list[Recording]:
        """One per person and session of which there are betas; HDF5 is taken where there are both.

        Raises:
            FileNotFoundError: There is none.
        """
        found: dict[tuple[str, str], Path] = {}
        pattern = f"nsddata_betas/ppdata/subj*/{self.space}/{self.betas}/betas_session*"
        for path in sorted(self.root.glob(pattern), reverse=True):
            match = _SESSION.search(path.name)
            if match:
                subject = path.parents[2].name.removeprefix("subj")
                key = subject, match[1]
                if key not in found or path.suffix == ".hdf5":
                    found[key] = path
        if not found:
            raise FileNotFoundError(
                f"{self.root}: no file {pattern}(.hdf5 or .nii.gz). Betas are at "
                "https://naturalscenesdataset.org after an agreement."
            )
        return [
            Recording(self.dataset, subject, session=session, task="nsd", path=path)
            for (subject, session), path in sorted(found.items())
        ]

    def people(self) -> list[str]:
        """Numbers of the people: "01", ..."""
        return list(dict.fromkeys(item.subject for item in self.recordings()))

    def responses(self, subject: str) -> Responses:
        """All sessions of one person, percent signal change.

        Raises:
            ValueError: Nobody of this name, or files that do not fit each other.
        """
        name = require_person(subject, self.people(), dataset=self.dataset)
        return Responses.joined([self._session(r) for r in self.recordings() if r.subject == name])

    def load(self, recording: Recording) -> Signal:
        """One session: a sample per trial."""
        return as_signal(
            self._session(recording), recording, history=f"betas {self.betas}, mask {self.mask}"
        )

    def shared(self) -> tuple[str, ...]:
        """The 1000 pictures that all people see."""
        return tuple(_name(int(i) - 1) for i in self._design["sharedix"].ravel())

    def images(self, names: Sequence[str]) -> Float[np.ndarray, "stimulus 3 height width"]:
        """Pictures by name, 0 to 1.

        Raises:
            FileNotFoundError: `nsd_stimuli.hdf5` is not there.
            ValueError: A name that is none of its pictures.
        """
        path = self.root / _STIMULI
        check_file(path)
        h5py = optional("h5py")
        found = np.empty((len(names), 3, self.size, self.size), dtype=np.float32)
        with h5py.File(path, "r") as file:
            pictures = file["imgBrick"]
            for i, name in enumerate(names):
                match = re.fullmatch(r"nsd(\d{5})", name)
                if match is None or int(match[1]) >= len(pictures):
                    raise ValueError(
                        f"{path}: no picture {name!r}; they are nsd00000 to "
                        f"{_name(len(pictures) - 1)}."
                    )
                found[i] = square(pictures[int(match[1])], self.size)
        return found

    def categories_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Not known: scenes of COCO have several objects each.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{self.dataset}: pictures have no single category. Split by stimulus, or give "
            "categories of your own to `split_trials`."
        )

    @functools.cached_property
    def _design(self) -> dict[str, np.ndarray]:
        with open_mat(self.root / _DESIGN) as file:
            missing = [n for n in ("masterordering", "subjectim", "sharedix") if n not in file]
            if missing:
                raise ValueError(f"{self.root / _DESIGN}: no variable {', '.join(missing)}.")
            return {n: np.asarray(file[n]) for n in ("masterordering", "subjectim", "sharedix")}

    def _session(self, recording: Recording) -> Responses:
        path, subject = recording.path, recording.subject
        if path is None:
            raise ValueError(f"{recording.id}: a recording without a file; see `recordings()`.")
        folder = self.root / "nsddata/ppdata" / f"subj{subject}" / self.space / "roi"
        mask, inside = read_mask(folder / f"{self.mask}.nii.gz")
        values, whole = read_volumes(path, mask, inside)
        if len(values) != TRIALS:
            raise ValueError(
                f"{path}: {len(values)} trials, expected the {TRIALS} of a session. Fetch it again."
            )
        if whole:  # others are percent already
            values /= SCALE
        session = int(str(recording.session))
        order = self._design["masterordering"].ravel().astype(int)
        first = (session - 1) * TRIALS
        if first + TRIALS > len(order):
            raise ValueError(
                f"{path}: session {session} goes beyond the {len(order)} trials of the design."
            )
        own = self._design["subjectim"][int(subject) - 1].ravel().astype(int)
        shown = own[order[first : first + TRIALS] - 1] - 1
        return Responses(
            values=values,
            stimulus=tuple(_name(int(i)) for i in shown),
            run=(f"{session:02d}",) * TRIALS,
            sensors=self._sensors(folder, mask, inside),
            recording=recording,
            unit="%",
        )

    def _sensors(self, folder: Path, mask: Image, inside: np.ndarray) -> Sensors:
        path = folder / f"{self.regions}.nii.gz"
        if self.regions is None or not path.is_file():
            return voxel_sensors(mask, inside)
        labels = read_labels(path, mask, inside)
        known = VISUAL if self.regions == "prf-visualrois" else {}
        region = tuple(known.get(i, f"{self.regions}-{i}") if i > 0 else "" for i in labels)
        return voxel_sensors(mask, inside, region)


def _name(index: int) -> str:
    return f"nsd{index:05d}"
