"""A corpus of functional images in folders: one run per file, masks and tables beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neurofm.io.mri.fmri import ALL, bold_slabs, read_bold
from neurofm.io.mri.fmri_sidecars import TR_SOURCES
from neurofm.io.mri.images import is_image, open_image
from neurofm.io.quality import Problem, listed, report
from neurofm.io.readers import compile_pattern, find_recordings, path_of
from neurofm.types import Recording, Signal

_FIELD = re.compile(r"\{(\w+)(?::\d+)?\}")  # a width, as in patterns, says nothing here


class FMRIReader:
    """Functional images (NIfTI, CIFTI-2, GIFTI) in folders and with names that follow a pattern.

    Paths of masks, atlases and tables may name `{subject}`, `{session}`, `{task}` and `{run}`; they
    are looked for beside the run, below the root, and below `$NEUROFM_DATA`, in this order.

    Args:
        pattern: Path below the root, such as "sub-{subject}/func/*_run-{run}_bold.nii.gz".
        dataset: Name of the corpus.
        root: Folder of the corpus.
        mask: Image of the voxels to keep, or "all"; see `bold_slabs` for this and what follows.
        atlas: Image of parcels.
        names: Table of the parcels' names.
        roi: Names or wildcards of the only parcels to read.
        average: One channel per parcel, or one for the mask.
        resample: Take a mask of another grid.
        surface: "left", "right" -> surf.gii.
        tr_s: Seconds between volumes.
        tr_from: Whom to believe if header, sidecar and card disagree.
        sidecar: JSON sidecar; the file of the run's name if not given.
        events: Events table; a run without one has no events, with a warning.
        event_column: Column that names the events.
        confounds: Table of confounds.
        confound_columns: Which of them, or the names of plain columns.
        frame: "mni" or "scanner", where the file does not say.
        scale: "percent" or "stored".
    """

    def __init__(
        self,
        pattern: str,
        *,
        dataset: str,
        root: Path | str,
        mask: str | None = None,
        atlas: str | None = None,
        names: str | None = None,
        roi: Sequence[str] = (),
        average: bool | None = None,
        resample: bool = False,
        surface: Mapping[str, str] | None = None,
        tr_s: float | None = None,
        tr_from: Literal["agree", "header", "sidecar", "card"] = "agree",
        sidecar: str | None = None,
        events: str | None = None,
        event_column: str | None = None,
        confounds: str | None = None,
        confound_columns: Sequence[str] | None = None,
        frame: str | None = None,
        scale: Literal["percent", "stored"] = "percent",
    ) -> None:
        compile_pattern(pattern)
        if tr_from not in TR_SOURCES:
            raise ValueError(f"{dataset}: tr_from is {tr_from!r}, not one of {TR_SOURCES}.")
        self.pattern = pattern
        self.dataset = dataset
        self.root = Path(root)
        self.files = {
            "mask": mask,
            "atlas": atlas,
            "names": names,
            "sidecar": sidecar,
            "events": events,
            "confounds": confounds,
        }
        self.surface = dict(surface or {})
        self.options: dict[str, Any] = {
            "roi": tuple(roi),
            "average": average,
            "resample": resample,
            "tr_s": tr_s,
            "tr_from": tr_from,
            "event_column": event_column,
            "confound_columns": confound_columns,
            "frame": frame,
            "scale": scale,
        }

    def recordings(self) -> list[Recording]:
        """All recordings, without opening a file."""
        return find_recordings(self.root, self.pattern, dataset=self.dataset)

    def load(self, recording: Recording) -> Signal:
        """One recording in percent signal change.

        Raises:
            ValueError: As `bold_slabs`.
            FileNotFoundError: A mask, an atlas or a table of confounds is missing.
        """
        return read_bold(path_of(recording), recording, **self._arguments(recording))

    def slabs(self, recording: Recording, *, max_bytes: int) -> Iterator[Signal]:
        """One recording in groups of channels; confounds come again with each group."""
        yield from bold_slabs(
            path_of(recording), recording, max_bytes=max_bytes, **self._arguments(recording)
        )

    def sources(self, recording: Recording) -> list[Path]:
        """Every further file that decides what the recording is read as."""
        found = [self._find(template, recording) for template in self._templates()]
        return sorted({path for path in found if path is not None})

    def _templates(self) -> list[str]:
        files = [*self.files.values(), *self.surface.values()]
        return [name for name in files if name is not None and name != ALL]

    def _arguments(self, recording: Recording) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for what, template in self.files.items():
            if template is None or template == ALL:
                given[what] = template
                continue
            path = self._find(template, recording)
            if path is None and what != "events":
                raise FileNotFoundError(
                    f"{recording.id}: no {what} {template!r} beside {recording.path}, below "
                    f"{self.root} or below $NEUROFM_DATA. Correct the card's reader."
                )
            if path is None:
                report(
                    Problem(
                        "warning",
                        f"No events table {template!r}.",
                        "The run is read without events.",
                        "no_events_table",
                    ),
                    str(recording.path),
                )
            given[what] = path
        if self.surface:
            places = {side: self._find(name, recording) for side, name in self.surface.items()}
            lost = [side for side, path in places.items() if path is None]
            if lost:
                raise FileNotFoundError(f"{recording.id}: no surface of the {listed(lost)} side.")
            given["surface"] = places
        return {**given, **self.options}

    def _find(self, template: str, recording: Recording) -> Path | None:
        """The file a template names for a recording, or None."""

        def value(match: re.Match[str]) -> str:
            known = getattr(recording, match[1], None)
            if known is None:
                raise ValueError(
                    f"{self.dataset}: {template!r} names {{{match[1]}}}, which {recording.id} "
                    "does not have."
                )
            return str(known)

        name = _FIELD.sub(value, template)
        if Path(name).is_absolute():
            return Path(name) if Path(name).exists() else None
        folders = [path_of(recording).parent, self.root]
        if os.environ.get("NEUROFM_DATA"):
            folders.append(Path(os.environ["NEUROFM_DATA"]))
        for folder in folders:
            if (folder / name).exists():
                return folder / name
            found = sorted(folder.glob(name)) if any(c in name for c in "*?") else []
            if len(found) > 1:
                raise ValueError(
                    f"{recording.id}: {template!r} fits {listed([p.name for p in found])}; one "
                    "file is expected."
                )
            if found:
                return found[0]
        return None


def describe_image(path: Path | str) -> list[str]:
    """What an image holds, in lines of text: for `neurofm check`.

    Raises:
        ValueError: It cannot be read.
    """
    path = Path(path)
    if not is_image(path):
        return [f"{path.name}: a file of surface data"]
    image = open_image(path)
    lines = [f"{path.name}: {image.describe()}"]
    if image.n_volumes > 1:
        tr = f"TR {image.tr_s:g} s" if image.tr_s else "TR not declared"
        if image.tr_doubt:
            tr += f" ({image.tr_doubt})"
        size = image.n_volumes * image.volume_bytes
        lines.append(f"time series: {image.n_volumes} volumes, {tr}, {size / 1e6:.1f} MB")
        return lines
    values = image.read_volume()
    finite = values[np.isfinite(values)]
    if len(finite) < len(values):
        lines.append(f"{len(values) - len(finite)} voxels are NaN or infinite")
    distinct = _distinct(finite)
    if distinct is not None and len(distinct) > 2:
        inside = int((finite != 0).sum())
        lines.append(f"atlas: {int((distinct != 0).sum())} labels, {inside} voxels inside")
    elif distinct is not None:
        lines.append(f"mask: {int((finite != 0).sum())} of {len(values)} voxels inside")
    elif len(finite):
        lines.append(f"map: values from {finite.min():g} to {finite.max():g}")
    return lines


def _distinct(values: np.ndarray) -> np.ndarray | None:
    """Distinct values if they are whole numbers and few enough to be labels."""
    if not len(values) or (values != np.rint(values)).any():
        return None
    found = np.unique(values)
    return found if len(found) <= max(2, len(values) // 20) else None
