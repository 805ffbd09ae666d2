"""Data on the cortical surface: CIFTI-2 (dtseries, ptseries) and GIFTI (func.gii).

A CIFTI time series stores each grayordinate's samples one after another, so that groups of
channels are read straight from the file. A GIFTI file is text and is read whole.

Vertices are called `L-<number>` and `R-<number>`, voxels `<structure>-i-j-k`. Vertices have a
position only if a surface (`.surf.gii`) of their hemisphere is given; voxels always have one.
Axes: channel = vertex, voxel or parcel, time = sample. Millimetres in files, metres here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.io.integrity import check_file
from neurofm.io.mri.voxels import ChannelSeries, Source
from neurofm.io.quality import listed, matches
from neurofm.shapes import Float, Int
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

SURFACES = (".dtseries.nii", ".ptseries.nii", ".gii")
MAPS = (".dscalar.nii", ".pscalar.nii", ".dtseries.nii", ".ptseries.nii")
_SIDES = {"CORTEX_LEFT": "left", "CORTEX_RIGHT": "right"}
_GIFTI_SIDES = {"cortexleft": "left", "cortexright": "right", "l": "left", "r": "right"}


@dataclass(frozen=True)
class _Places:
    """Where channels are.

    Args:
        names: See the module.
        keys: What another file on the same mesh or grid calls the same place.
        position: Metres; NaN where unknown.
    """

    names: list[str]
    keys: list[tuple[Any, ...]]
    position: Float[np.ndarray, "channel 3"]


def open_surface(
    path: Path,
    *,
    surface: Mapping[str, Path] | None = None,
    mask: Path | str | None = None,
    atlas: Path | None = None,
    roi: Sequence[str] = (),
    average: bool | None = None,
    max_bytes: int | None = None,
) -> Source:
    """Open a time series on the surface.

    Args:
        surface: "left", "right" -> `.surf.gii` with the places of the vertices.
        mask: Only "all" or nothing: these files hold what they hold.
        atlas: `.dlabel.nii` or `.label.gii` on the same vertices.
        roi: Names or wildcards of the only parcels to read.
        average: One channel per parcel; with an atlas yes, unless False.
        max_bytes: Memory one slab may take.

    Raises:
        ValueError: Damaged, not a time series, or an atlas of another mesh.
    """
    if mask not in (None, "all"):
        raise ValueError(f"{path}: `mask` is for volume images; use an atlas and `roi` here.")
    gifti = path.name.lower().endswith(".gii")
    header, places, read, n_times = _gifti(path) if gifti else _cifti(path)
    if n_times < 2:
        raise ValueError(f"{path}: one sample only, expected a time series.")
    places = _placed(places, surface or {})
    region = [""] * len(places.names)
    details = {"atlas": None if atlas is None else atlas.name}
    shared: dict[str, Any] = {"frame": "unknown", "header": header, "details": details}
    n = len(places.names)
    if atlas is None:
        if roi or average:
            raise ValueError(f"{path}: `roi` and `average` need an atlas on a surface.")
        if path.name.endswith(".ptseries.nii"):
            region = list(places.names)
        series = ChannelSeries(read, n, n_times, max_bytes=max_bytes)
        return Source(
            series, places.names, places.position, region, n_times, f"{n} channels", **shared
        )
    label = _labels(atlas, places)
    names = sorted({name for name in label if name})
    if roi:
        unknown = [item for item in roi if not any(matches(name, [item]) for name in names)]
        if unknown:
            raise ValueError(f"{atlas}: no parcel is called {listed(unknown)}.")
        names = [name for name in names if matches(name, roi)]
        label = [name if name in names else "" for name in label]
    if average is False:
        keep = np.flatnonzero([bool(name) for name in label])
        series = ChannelSeries(_picked(read, keep), len(keep), n_times, max_bytes=max_bytes)
        chosen = [places.names[i] for i in keep]
        position, region = places.position[keep], [label[i] for i in keep]
        return Source(series, chosen, position, region, n_times, f"{len(keep)} of {n}", **shared)
    member = np.array([names.index(name) if name else -1 for name in label])
    means = _means(read, member, len(names), n_times)
    position = np.full((len(names), 3), np.nan)
    for i in range(len(names)):
        here = places.position[member == i]
        position[i] = here.mean(axis=0)  # NaN if any vertex has no place
    series = ChannelSeries(lambda lo, hi: means[lo:hi], *means.shape)
    line = f"means of {len(names)} parcels over {int((member >= 0).sum())} of {n} channels"
    return Source(series, names, position, names, n_times, line, **shared)


def _picked(
    read: Callable[[int, int], np.ndarray], keep: Int[np.ndarray, " channel"]
) -> Callable[[int, int], np.ndarray]:
    def pick(lo: int, hi: int) -> np.ndarray:
        first, last = int(keep[lo]), int(keep[hi - 1]) + 1
        return read(first, last)[keep[lo:hi] - first]

    return pick


def _means(
    read: Callable[[int, int], np.ndarray], member: np.ndarray, n_parcels: int, n_times: int
) -> Float[np.ndarray, "channel time"]:
    """Means over the members of each parcel; channels with NaN count for nothing."""
    total, count = np.zeros((n_parcels, n_times)), np.zeros(n_parcels)
    step = max(1, (4 << 20) // n_times)
    for lo in range(0, len(member), step):
        own = member[lo : lo + step]
        data = read(lo, lo + len(own)).astype(np.float64)
        good = (own >= 0) & np.isfinite(data).all(axis=1)
        np.add.at(total, own[good], data[good])
        np.add.at(count, own[good], 1)
    with np.errstate(invalid="ignore"):
        return total / count[:, None]


def _load(path: Path) -> Any:
    import nibabel

    check_file(path)
    try:
        return nibabel.load(path)
    except Exception as error:  # nibabel lets through whatever the parser stumbles on
        raise ValueError(
            f"{path}: not a CIFTI-2 or GIFTI file, or damaged ({error}). Fetch it again."
        ) from error


def _axes(path: Path) -> tuple[Any, Any, Any]:
    """A CIFTI image and its two axes: what the rows are (time, maps), and the channels."""
    import nibabel

    loaded = _load(path)
    if not isinstance(loaded, nibabel.Cifti2Image):
        raise ValueError(f"{path}: a {type(loaded).__name__}, expected a CIFTI-2 file.")
    proxy: Any = loaded.dataobj
    expected = proxy.offset + int(np.prod(proxy.shape)) * proxy.dtype.itemsize
    size = os.stat(path).st_size
    if size < expected:
        raise ValueError(
            f"{path}: truncated: {expected} bytes declared, {size} found. Fetch it again."
        )
    header = loaded.header
    if header.number_of_mapped_indices != 2:
        raise ValueError(f"{path}: {header.number_of_mapped_indices} axes, expected 2.")
    return loaded, header.get_axis(0), header.get_axis(1)


def _cifti(
    path: Path,
) -> tuple[tuple[float | None, str], _Places, Callable[[int, int], np.ndarray], int]:
    from nibabel.cifti2 import SeriesAxis

    loaded, time, channels = _axes(path)
    if not isinstance(time, SeriesAxis):
        raise ValueError(
            f"{path}: its rows are a {type(time).__name__}, expected a time series. Maps are read "
            "by `neurofm.io.read_maps`."
        )
    step, unit = float(time.step), str(time.unit)
    header: tuple[float | None, str] = (
        (round(step, 6), "") if unit == "SECOND" and step > 0 else (None, "")
    )
    if header[0] is None:
        header = (None, f"the series has a step of {step:g} {unit.lower()}")
    proxy = loaded.dataobj

    def read(lo: int, hi: int) -> np.ndarray:
        return np.asarray(proxy[:, lo:hi]).T

    return header, _cifti_places(channels), read, len(time)


def _cifti_places(axis: Any) -> _Places:
    from nibabel.cifti2 import BrainModelAxis

    n = len(axis)
    position = np.full((n, 3), np.nan)
    names: list[str] = []
    keys: list[tuple[Any, ...]] = []
    if not isinstance(axis, BrainModelAxis):
        names = [str(name) for name in axis.name]
        return _Places(names, [(name,) for name in names], position)
    for i in range(n):
        structure = str(axis.name[i]).removeprefix("CIFTI_STRUCTURE_")
        if axis.surface_mask[i]:
            number = int(axis.vertex[i])
            keys.append((_SIDES.get(structure, structure), number))
            names.append(f"{_SIDES.get(structure, structure)[0].upper()}-{number}")
        else:
            ijk = axis.voxel[i]
            keys.append((structure, *map(int, ijk)))
            names.append(f"{structure.lower()}-{ijk[0]}-{ijk[1]}-{ijk[2]}")
    voxels = np.asarray(axis.volume_mask)
    if voxels.any():
        affine = np.asarray(axis.affine)
        position[voxels] = (axis.voxel[voxels] @ affine[:3, :3].T + affine[:3, 3]) / 1000.0
    return _Places(names, keys, position)


def _side(path: Path, loaded: Any) -> str:
    """Hemisphere by the file's own metadata, else by its name (`hemi-L`)."""
    records = [loaded.meta, *(array.meta for array in loaded.darrays)]
    for meta in records:
        word = str(meta.get("AnatomicalStructurePrimary", "")).lower().replace("_", "")
        if word in _GIFTI_SIDES:
            return _GIFTI_SIDES[word]
    for part in path.name.lower().replace(".", "_").split("_"):
        word = part.removeprefix("hemi-")
        if word in _GIFTI_SIDES and (part != word or word in ("l", "r")):
            return _GIFTI_SIDES[word]
    return "unknown"


def _gifti_load(path: Path) -> Any:
    from nibabel.gifti import GiftiImage

    loaded = _load(path)
    if not isinstance(loaded, GiftiImage) or not loaded.darrays:
        raise ValueError(f"{path}: holds no GIFTI data. Fetch it again, or correct its suffix.")
    return loaded


def _gifti(
    path: Path,
) -> tuple[tuple[float | None, str], _Places, Callable[[int, int], np.ndarray], int]:
    loaded = _gifti_load(path)
    arrays = [np.asarray(array.data) for array in loaded.darrays]
    if len(arrays) == 1 and arrays[0].ndim == 2:
        data = arrays[0]
    elif all(array.ndim == 1 and array.shape == arrays[0].shape for array in arrays):
        data = np.stack(arrays, axis=1)
    else:
        shapes = listed([str(array.shape) for array in arrays])
        raise ValueError(
            f"{path}: arrays of shapes {shapes}, expected one value per vertex in each. Surfaces "
            "(.surf.gii) are places, not recordings."
        )
    step = next((a.meta["TimeStep"] for a in loaded.darrays if "TimeStep" in a.meta), None)
    try:
        value = float(step) if step is not None else 0.0
    except ValueError:
        value = 0.0
    # The standard gives the time step no unit; files hold seconds and milliseconds.
    header: tuple[float | None, str] = (None, "the file gives no time step")
    if value > 0:
        seconds = value / 1000 if value > 60 else value
        header = (seconds, f"the file's time step of {value:g} has no unit, taken as {seconds:g} s")
    side = _side(path, loaded)
    letter = side[0].upper()
    names = [f"{letter}-{i}" for i in range(len(data))]
    keys: list[tuple[Any, ...]] = [(side, i) for i in range(len(data))]
    places = _Places(names, keys, np.full((len(data), 3), np.nan))
    return header, places, lambda lo, hi: data[lo:hi], data.shape[1]


def _placed(places: _Places, surface: Mapping[str, Path]) -> _Places:
    """Positions of vertices from surfaces."""
    position = places.position.copy()
    for side, path in surface.items():
        loaded = _gifti_load(Path(path))
        points = np.asarray(loaded.agg_data("pointset"), dtype=np.float64)
        if points.ndim != 2 or points.shape[1:] != (3,):
            raise ValueError(f"{path}: holds no points; expected a surface (.surf.gii).")
        own = [i for i, key in enumerate(places.keys) if key[0] == side and len(key) == 2]
        number = np.array([places.keys[i][1] for i in own], dtype=int)
        if len(own) and number.max() >= len(points):
            raise ValueError(
                f"{path}: {len(points)} vertices, but the data name vertex {number.max()}. It is "
                "a surface of another mesh."
            )
        position[own] = points[number] / 1000.0
    return _Places(places.names, places.keys, position)


def _labels(atlas: Path, places: _Places) -> list[str]:
    """Name of the parcel of every channel, "" outside.

    Raises:
        ValueError: No channel is in any parcel.
    """
    if atlas.name.lower().endswith(".gii"):
        loaded = _gifti_load(atlas)
        values = np.asarray(loaded.darrays[0].data).astype(int)
        table = {int(k): str(v) for k, v in loaded.labeltable.get_labels_as_dict().items()}
        side = _side(atlas, loaded)
        keys: list[tuple[Any, ...]] = [(side, i) for i in range(len(values))]
    else:
        from nibabel.cifti2 import LabelAxis

        image, maps, channels = _axes(atlas)
        if not isinstance(maps, LabelAxis):
            raise ValueError(f"{atlas}: its rows are a {type(maps).__name__}, expected labels.")
        values = np.asarray(image.dataobj[0, :]).astype(int)
        table = {int(k): str(v[0]) for k, v in maps.label[0].items()}
        keys = _cifti_places(channels).keys
    named = {
        key: table.get(value, f"parcel-{value}")
        for key, value in zip(keys, values.tolist(), strict=True)
        if value != 0
    }
    label = [named.get(key, "") for key in places.keys]
    if not any(label):
        raise ValueError(
            f"{atlas}: none of its {len(named)} labelled places is among the "
            f"{len(places.keys)} channels: another mesh, hemisphere or grid."
        )
    return label


def read_maps(path: Path, recording: Recording) -> Signal:
    """Maps of a CIFTI scalar file (dscalar, pscalar) as a signal of one sample per map.

    Returns:
        Channels of `Kind.OTHER`, an event per map with its name, and one "second" per map:
        `details["samples"]` is "maps".

    Raises:
        ValueError: Damaged, or not a file of maps.
    """
    from nibabel.cifti2 import ScalarAxis

    loaded, maps, channels = _axes(Path(path))
    if not isinstance(maps, ScalarAxis):
        raise ValueError(f"{path}: its rows are a {type(maps).__name__}, expected maps.")
    places = _cifti_places(channels)
    parcels = not hasattr(channels, "surface_mask")
    sensors = Sensors.of_kind(places.names, Kind.OTHER, places.position, frame="unknown")
    if parcels:
        sensors = Sensors(**{**vars(sensors), "region": tuple(places.names)})
    return Signal(
        data=np.asarray(loaded.dataobj).T.astype(np.float32),
        sfreq=1.0,
        sensors=sensors,
        events=tuple(Event(float(i), 1.0, str(name)) for i, name in enumerate(maps.name)),
        recording=recording,
        history=(f"read {Path(path).name}: {len(maps)} maps",),
        details={"samples": "maps"},
    )
