"""Single-trial betas of BOLD5000, release 2: an image per session, a list of names per person.

The files of a person lie in one folder: `CSI1_GLMbetas-...-ses-01.nii.gz` (a volume per trial,
percent signal change), `CSI1_imgnames.txt` (a picture per trial, sessions after each other) and
`CSI1_brainmask.nii.gz`. Places are those of the mask: the betas' own affine is said to be wrong,
their shapes agree. A session is a run, as the authors advise to take z-scores by session. The
pictures that a person saw more than once are the test set.

Source: Chang et al. 2019; the README of release 2 (naming, units).
Axes: trial voxel; stimulus, 3 height width.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from neurofm.io.integrity import check_file
from neurofm.io.mri.images import open_image
from neurofm.io.responses.trials import as_signal, read_pictures, require_person
from neurofm.io.responses.volumes import read_mask, read_volumes, voxel_sensors
from neurofm.shapes import Float
from neurofm.types import Recording, Responses, Signal

_PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


class BOLD5000Reader:
    """Betas of BOLD5000.

    Args:
        dataset: Name of the corpus.
        root: Folder with the betas, lists and masks.
        betas: Which version.
        mask: Name of the mask after "CSI1_"; an image of a region can be given.
        images: Folder of the pictures, below the root or beside it; searched with its subfolders.
        size: Of pictures, pixels.
    """

    def __init__(
        self,
        *,
        dataset: str,
        root: Path | str,
        betas: str = "TYPED-FITHRF-GLMDENOISE-RR",
        mask: str = "brainmask",
        images: str = "BOLD5000_Stimuli",
        size: int = 128,
    ) -> None:
        self.dataset, self.root = dataset, Path(root)
        self.betas, self.mask, self.images_folder, self.size = betas, mask, images, size

    def recordings(self) -> list[Recording]:
        """One per person and session of which there are betas.

        Raises:
            FileNotFoundError: There is none.
        """
        found = []
        for path in sorted(self.root.glob(f"CSI*_GLMbetas-{self.betas}_ses-*.nii.gz")):
            match = re.match(r"CSI(\d+)_.*_ses-(\d+)\.nii\.gz$", path.name)
            if match:
                found.append(
                    Recording(self.dataset, match[1], session=match[2], task="scenes", path=path)
                )
        if not found:
            raise FileNotFoundError(
                f"{self.root}: no file CSI*_GLMbetas-{self.betas}_ses-*.nii.gz. Release 2 is at "
                "https://bold5000-dataset.github.io/website/download.html."
            )
        return found

    def people(self) -> list[str]:
        """Numbers of the people: "1" is CSI1."""
        return list(dict.fromkeys(item.subject for item in self.recordings()))

    def responses(self, subject: str) -> Responses:
        """All sessions of one person, percent signal change.

        Raises:
            ValueError: Nobody of this name, or lists and volumes of different length.
        """
        name = require_person(subject, self.people(), dataset=self.dataset)
        return Responses.joined([self._session(r) for r in self.recordings() if r.subject == name])

    def load(self, recording: Recording) -> Signal:
        """One session: a sample per trial."""
        return as_signal(self._session(recording), recording, history=f"betas {self.betas}")

    def shared(self) -> tuple[str, ...]:
        """Pictures that everybody who is here saw several times."""
        often = [
            {name for name, n in Counter(self._names(subject)).items() if n > 1}
            for subject in self.people()
        ]
        return tuple(sorted(set.intersection(*often)))

    def images(self, names: Sequence[str]) -> Float[np.ndarray, "stimulus 3 height width"]:
        """Pictures by name, 0 to 1.

        Raises:
            FileNotFoundError: Pictures are missing.
        """
        places = (self.root / self.images_folder, self.root.parent / self.images_folder)
        files = {
            path.stem: path
            for place in places
            for path in sorted(place.rglob("*"))
            if path.suffix.lower() in _PICTURES
        }
        return read_pictures(files, names, size=self.size, where=str(places[0]))

    def categories_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Where each picture is from: "COCO", a synset of ImageNet (n01...), or the scene."""
        return tuple(_category(name) for name in names)

    def _names(self, subject: str) -> list[str]:
        """The picture of every trial, without suffix; repeats have the name of the first."""
        path = self.root / f"CSI{subject}_imgnames.txt"
        check_file(path)
        lines = path.read_text(encoding="utf-8").split("\n")
        names = [Path(line.strip()).stem.removeprefix("rep_") for line in lines if line.strip()]
        return names

    def _session(self, recording: Recording) -> Responses:
        if recording.path is None:
            raise ValueError(f"{recording.id}: a recording without a file; see `recordings()`.")
        subject = recording.subject
        sessions = [r for r in self.recordings() if r.subject == subject]
        lengths = {str(r.session): open_image(r.path).n_volumes for r in sessions if r.path}
        names, total = self._names(subject), sum(lengths.values())
        before = 0
        numbers = sorted(lengths)
        if numbers != [f"{i + 1:02d}" for i in range(len(numbers))] or total > len(names):
            raise ValueError(
                f"{self.root}: CSI{subject}_imgnames.txt lists {len(names)} trials, sessions "
                f"{', '.join(numbers)} have {total} volumes. The list goes by session, so that "
                "sessions from 01 on are needed without a gap, and no more volumes than names."
            )
        for number in numbers:
            if number == recording.session:
                break
            before += lengths[number]
        mask, inside = read_mask(self.root / f"CSI{subject}_{self.mask}.nii.gz")
        values, _ = read_volumes(recording.path, mask, inside, affine=False)
        own = names[before : before + len(values)]
        found = Responses(
            values=values,
            stimulus=tuple(own),
            run=(str(recording.session),) * len(own),
            sensors=voxel_sensors(mask, inside),
            recording=recording,
            unit="%",
        )
        return replace(found, values=np.ascontiguousarray(found.values))


def _category(name: str) -> str:
    if name.startswith("COCO"):
        return "COCO"
    synset = re.match(r"n\d{8}", name)
    return synset[0] if synset else re.sub(r"\d+$", "", name)
