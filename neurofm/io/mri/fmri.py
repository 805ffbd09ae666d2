"""Functional images as signals: percent change of voxels, parcels, vertices or one region.

`read_bold` reads a run whole, `bold_slabs` in groups of channels, for runs larger than memory.
Values are percent change from each channel's own mean over time, positions are metres. Confounds
are channels called `confound:<name>` and come first in every group: a step that regresses them out
needs them there.

Axes: channel = confound, voxel, parcel or vertex; time = volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neurofm.io.mri.atlases import atlas_on, implicit_mask, mask_on, read_atlas
from neurofm.io.mri.fmri_sidecars import read_confounds, repetition_time
from neurofm.io.mri.images import Image, is_image, open_image
from neurofm.io.mri.surfaces import SURFACES, open_surface
from neurofm.io.mri.voxels import ChannelSeries, Source, VoxelSeries, parcel_means, percent_change
from neurofm.io.quality import Problem, listed, matches, report
from neurofm.io.sidecars import read_events, read_json
from neurofm.shapes import Bool
from neurofm.types import FRAMES, Event, Recording, Sensors, Signal
from neurofm.units import Kind

CONFOUND = "confound:"
ALL = "all"  # in place of a mask: every voxel


def read_bold(path: Path, recording: Recording, **arguments: Any) -> Signal:
    """One run, whole. Arguments and errors as for `bold_slabs`."""
    (signal,) = bold_slabs(path, recording, max_bytes=None, **arguments)
    return signal


def bold_slabs(
    path: Path,
    recording: Recording,
    *,
    max_bytes: int | None,
    mask: Path | str | None = None,
    atlas: Path | None = None,
    names: Path | Mapping[int, str] | None = None,
    roi: Sequence[str] = (),
    average: bool | None = None,
    resample: bool = False,
    surface: Mapping[str, Path] | None = None,
    tr_s: float | None = None,
    tr_from: str = "agree",
    sidecar: Path | Mapping[str, Any] | None = None,
    events: Path | Sequence[Event] | None = None,
    event_column: str | None = None,
    confounds: Path | None = None,
    confound_columns: Sequence[str] | None = None,
    frame: str | None = None,
    scale: Literal["percent", "stored"] = "percent",
) -> Iterator[Signal]:
    """One run as groups of channels, each over the whole time.

    Args:
        path: NIfTI, CIFTI-2 (dtseries, ptseries) or GIFTI (func.gii).
        recording: Whose signal it becomes.
        max_bytes: Memory one group may take as float32; everything at once if None.
        mask: Image of the voxels to keep; "all"; if None, what an atlas covers, else the voxels
            that are bright (`atlases.implicit_mask`).
        atlas: Image of parcels; `.dlabel.nii` or `.label.gii` for data on surfaces.
        names: Names of the parcels, or a table of them; see `read_atlas`.
        roi: Names or wildcards of the only parcels to read.
        average: One channel per parcel (with an atlas: yes, unless False), or without an atlas one
            channel for the mask (no, unless True).
        resample: Take the nearest voxel of a mask on another grid, instead of refusing it.
        surface: "left", "right" -> surf.gii with the places of the vertices.
        tr_s: Seconds between volumes, where the file does not say; compared where it does.
        tr_from: "agree", or the one to believe: "header", "sidecar", "card".
        sidecar: BIDS sidecar, or its contents; the file of the same name by default.
        events: BIDS events table, or the events.
        event_column: Column of the table that names the events.
        confounds: Table of confounds, fMRIPrep's or plain columns.
        confound_columns: Which, or the names of plain columns; see `read_confounds`.
        frame: "mni" or "scanner", where header and file name do not say.
        scale: "percent" of the mean over time, or the numbers "stored" (for images whose mean was
            taken away before).

    Yields:
        `Kind.BOLD` channels named by voxel (`v012-034-056`, canonical indices), parcel or vertex,
        behind confounds of `Kind.OTHER`. Channels without a baseline or with NaN are left out and
        counted in a warning at the end.

    Raises:
        ValueError: A damaged file, one volume only, no repetition time or several, another grid, an
            empty mask, or images whose mean was taken away.
    """
    if scale not in ("percent", "stored"):
        raise ValueError(f"scale is {scale!r}, expected percent or stored.")
    if frame is not None and frame not in FRAMES:
        raise ValueError(f"frame {frame!r} is not one of {', '.join(FRAMES)}.")
    arguments: dict[str, Any] = {
        "atlas": atlas,
        "roi": roi,
        "average": average,
        "max_bytes": max_bytes,
    }
    if is_image(path):
        source = _from_image(path, mask, names=names, resample=resample, **arguments)
    elif path.name.lower().endswith(SURFACES):
        source = open_surface(path, surface=surface, mask=mask, **arguments)
    else:
        raise ValueError(f"{path}: not a NIfTI, CIFTI-2 or GIFTI file by its suffix.")
    if isinstance(sidecar, Path) or sidecar is None:
        sidecar = _sidecar(path, sidecar)
    tr = repetition_time(source.header, sidecar=sidecar, card=tr_s, source=tr_from, where=str(path))
    known = read_events(events, column=event_column) if isinstance(events, Path) else events
    facts = source.series.facts
    if scale == "percent" and facts.demeaned:
        raise ValueError(
            f"{path}: the mean over time of most channels is zero, so percent change has no "
            "baseline: the mean was taken away by earlier processing. Use the images before that, "
            "or `scale: stored` to take the numbers as they are."
        )
    columns: tuple[str, ...] = ()
    table = np.zeros((0, source.n_times))
    if confounds is not None:
        columns, table = read_confounds(confounds, source.n_times, columns=confound_columns)
    signal = Signal(
        data=table.astype(np.float32),
        sfreq=1.0 / tr,
        sensors=Sensors.of_kind(
            [CONFOUND + name for name in columns],
            Kind.OTHER,
            frame=frame or _frame(path, source.frame),
        ),
        events=_with_empty(tuple(known or ()), facts.empty, tr, path),
        recording=recording,
        history=(
            f"read {path.name}: {source.line}",
            "percent change from the mean over time" if scale == "percent" else "as stored",
        ),
        details={"tr_s": tr, "n_volumes": source.n_times, "scale": scale, **source.details},
    )
    yield from _slabs(path, signal, source, scale)


def _slabs(path: Path, signal: Signal, source: Source, scale: str) -> Iterator[Signal]:
    lost: list[str] = []
    for lo, hi, data in source.series.slabs():
        if scale == "percent":
            usable = percent_change(data, least=source.series.facts.least_baseline)
        else:
            usable = np.isfinite(data).all(axis=1)
        lost += [source.names[lo + i] for i in np.flatnonzero(~usable).tolist()]
        keep = np.flatnonzero(usable)
        if not len(keep):
            continue
        if len(keep) < hi - lo:
            data = data[keep]
        sensors = signal.sensors
        fresh = Sensors.of_kind(
            [*sensors.names, *(source.names[lo + i] for i in keep.tolist())],
            Kind.BOLD,
            np.concatenate([sensors.position, source.position[lo:hi][keep]]),
            frame=sensors.frame,
        )
        fresh.kind[: len(sensors)] = int(Kind.OTHER)
        region = [*[""] * len(sensors), *(source.region[lo + i] for i in keep.tolist())]
        fresh = replace(fresh, region=tuple(region) if any(source.region) else ())
        both = np.concatenate([signal.data, data]) if len(sensors) else data
        yield replace(signal, data=both, sensors=fresh)
    if len(lost) == len(source.names):
        raise ValueError(
            f"{path}: none of {len(lost)} channels has finite values and a mean above 0. Look at "
            "the image and the mask."
        )
    if lost:
        report(
            Problem(
                "warning",
                f"{len(lost)} of {len(source.names)} channels have no baseline above 0 or hold NaN "
                f"or infinity: {listed(lost)}.",
                "They are left out: outside the head or the field of view. A tighter mask leaves "
                "the same channels in every run.",
                "no_baseline",
            ),
            str(path),
        )


def _sidecar(path: Path, given: Path | None) -> dict[str, Any] | None:
    if given is None:
        given = path.with_name(path.name.split(".", 1)[0] + ".json")
        if not given.is_file():
            return None
    return read_json(given)


def _frame(path: Path, header: str) -> str:
    """The space in the file's name (`space-MNI152NLin2009cAsym`), else the header's."""
    parts = [part[6:] for part in path.name.split("_") if part.startswith("space-")]
    if parts and parts[0].upper().startswith("MNI"):
        return "mni"
    return header


def _with_empty(
    events: tuple[Event, ...], empty: Bool[np.ndarray, " time"], tr: float, path: Path
) -> tuple[Event, ...]:
    """The events, and one that is BAD for every stretch of volumes that hold nothing but zeros."""
    if not empty.any() or empty.all():
        return events
    edges = np.flatnonzero(np.diff(np.r_[0, empty.astype(np.int8), 0])).reshape(-1, 2)
    report(
        Problem(
            "warning",
            f"{int(empty.sum())} of {len(empty)} volumes are zero everywhere, the first at "
            f"{edges[0, 0] * tr:g} s.",
            "Marked as `BAD empty volume`: no window is cut there.",
            "empty_volumes",
        ),
        str(path),
    )
    bad = [Event(lo * tr, (hi - lo) * tr, "BAD empty volume") for lo, hi in edges.tolist()]
    return tuple(sorted([*events, *bad], key=lambda event: event.onset))


def _from_image(
    path: Path,
    mask: Path | str | None,
    *,
    atlas: Path | None,
    names: Path | Mapping[int, str] | None,
    roi: Sequence[str],
    average: bool | None,
    resample: bool,
    max_bytes: int | None,
) -> Source:
    image = open_image(path)
    if image.n_volumes < 2:
        what = "a 4-D image of one volume" if image.is_4d else "a 3-D image"
        raise ValueError(
            f"{path}: {what}, expected a time series. Anatomical images, masks and statistics are "
            "not recordings."
        )
    if roi and atlas is None:
        raise ValueError(f"{path}: `roi` names parcels of an atlas; give an `atlas` as well.")
    inside = _inside(image, mask, has_atlas=atlas is not None, resample=resample)
    details: dict[str, Any] = {
        "grid": list(image.grid.shape),
        "affine_mm": np.round(image.grid.affine, 6).tolist(),
        "mask": None if mask is None else Path(mask).name,
        "atlas": None if atlas is None else atlas.name,
    }
    called: Mapping[int, str] = {}
    labels = inside.astype(np.int64)
    if atlas is not None:
        parcels = read_atlas(atlas, names=names)
        called = parcels.names
        wanted = _wanted(called, roi, atlas)
        labels = atlas_on(parcels, atlas, image, parcels=wanted) * inside
        if not labels.any():
            raise ValueError(f"{path}: no voxel is both in the mask and in a parcel of {atlas}.")
    elif average:
        called = {1: "mean" if mask in (None, ALL) else Path(mask).name.split(".")[0]}
    about: dict[str, Any] = {
        "frame": image.frame,
        "header": (image.tr_s, image.tr_doubt),
        "details": details,
    }
    if average if average is not None else atlas is not None:
        return _parcels(image, labels, called, **about)
    index = np.flatnonzero(labels)
    places = image.grid.index(index).tolist()
    return Source(
        series=VoxelSeries(image, index, max_bytes=max_bytes),
        names=[f"v{i:03d}-{j:03d}-{k:03d}" for i, j, k in places],
        position=image.grid.positions(index),
        region=[called.get(n, "") for n in labels[index].tolist()],
        n_times=image.n_volumes,
        line=f"{len(index)} of {image.n_voxels} voxels",
        **about,
    )


def _parcels(image: Image, labels: np.ndarray, called: Mapping[int, str], **about: Any) -> Source:
    means, counts, left_out = parcel_means(image, labels)
    if left_out:
        report(
            Problem(
                "warning",
                f"{left_out} of {np.count_nonzero(labels)} voxels hold NaN or infinity.",
                "They are left out of the mean of their parcel.",
                "nan_voxels",
            ),
            str(image.path),
        )
    index = np.flatnonzero(labels)
    numbers, where = np.unique(labels[index], return_inverse=True)
    position = image.grid.positions(index)
    total = np.stack([np.bincount(where, position[:, axis]) for axis in range(3)], axis=1)
    names = [called.get(n, f"parcel-{n}") for n in numbers.tolist()]
    return Source(
        series=ChannelSeries(lambda lo, hi: means[lo:hi], *means.shape),
        names=names,
        position=total / np.bincount(where)[:, None],
        region=names,
        n_times=image.n_volumes,
        line=f"means of {len(names)} parcels over {int(counts.sum())} voxels",
        **about,
    )


def _inside(
    image: Image, mask: Path | str | None, *, has_atlas: bool, resample: bool
) -> Bool[np.ndarray, " voxel"]:
    if mask == ALL or (mask is None and has_atlas):
        return np.ones(image.n_voxels, dtype=bool)
    if mask is None:
        return implicit_mask(image)
    return mask_on(mask, image, resample=resample)


def _wanted(names: Mapping[int, str], roi: Sequence[str], atlas: Path) -> tuple[int, ...]:
    if not roi:
        return tuple(sorted(names))
    unknown = [item for item in roi if not any(matches(name, [item]) for name in names.values())]
    if unknown:
        raise ValueError(
            f"{atlas}: no parcel is called {listed(unknown)}; there are "
            f"{listed(list(names.values()))}."
        )
    return tuple(sorted(n for n, name in names.items() if matches(name, roi)))
