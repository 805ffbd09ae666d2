"""Atlases and masks on the grid of an image: which voxels count, and to which parcel they belong.

An atlas is a 3-D image of whole numbers, 0 outside. It is brought to the grid of the recording by
the nearest voxel, through both affines: moving labels costs nothing and invents no values.

Axes: voxel = canonical number, see `neurofm.io.mri.images`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurofm.io.mri.images import Grid, Image, nearest, open_image, require_same_grid
from neurofm.io.quality import Problem, listed, report
from neurofm.shapes import Bool, Float, Int

_TABLES = (".tsv", ".txt", ".csv", ".lut")
_NUMBER = ("index", "label", "id", "value", "number", "roi", "parcel")
_NAME = ("name", "label", "labels", "region", "label_name", "roi_name")
_FIRST_VOLUMES = 20  # that the mask without a mask image is computed from


@dataclass(frozen=True)
class Atlas:
    """A parcellation.

    Args:
        labels: Number of the parcel of each voxel, canonical orientation; 0 = outside.
        names: Name of every parcel number that occurs.
        affine: From canonical voxel index to millimetres.
    """

    labels: Int[np.ndarray, "x y z"]
    names: Mapping[int, str]
    affine: Float[np.ndarray, "4 4"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels to the right, to the front and up."""
        x, y, z = self.labels.shape
        return x, y, z

    @property
    def numbers(self) -> tuple[int, ...]:
        """Parcel numbers that occur, ascending."""
        return tuple(sorted(self.names))

    def on(self, grid: Grid) -> Int[np.ndarray, " voxel"]:
        """The parcel number at every voxel of a grid, the nearest voxel's; 0 outside."""
        return nearest(self.labels.ravel(order="F"), Grid(self.shape, self.affine), grid)


def read_atlas(path: Path | str, *, names: Path | str | Mapping[int, str] | None = None) -> Atlas:
    """Read a parcellation: a 3-D image of whole numbers.

    Args:
        path: NIfTI image.
        names: Names by number, or a table of them: two columns (number, name), a header naming
            them, or the layout of FreeSurfer's colour tables. By default a table of the image's
            name beside it; parcels without a name are called by their number.

    Raises:
        ValueError: Not a 3-D image, values that are not whole numbers, or no parcel.
    """
    image = open_image(path)
    if image.n_volumes > 1:
        raise ValueError(
            f"{image.path}: {image.n_volumes} volumes, expected a 3-D image of whole numbers. "
            "Probabilistic atlases have one volume a parcel: take the most probable one first."
        )
    values = image.read_volume()
    values[~np.isfinite(values)] = 0
    whole = np.rint(values)
    if np.abs(values - whole).max() > 1e-3:
        odd = values[np.abs(values - whole) > 1e-3]
        raise ValueError(
            f"{image.path}: values such as {odd[0]:g} are not whole numbers, so this is no "
            "parcellation. A mask or a probability map is given as `mask`."
        )
    labels = whole.astype(np.int64)
    numbers = [int(n) for n in np.unique(labels) if n != 0]
    if not numbers:
        raise ValueError(f"{image.path}: every voxel is 0, so there is no parcel.")
    known = names if isinstance(names, Mapping) else _names_for(image.path, names)
    named = {n: str(known.get(n, f"parcel-{n}")) for n in numbers}
    twice = {name for name in named.values() if list(named.values()).count(name) > 1}
    named = {n: f"{name}-{n}" if name in twice else name for n, name in named.items()}
    return Atlas(labels.reshape(image.grid.shape, order="F"), named, image.grid.affine)


def _names_for(path: Path, table: Path | str | None) -> dict[int, str]:
    if table is not None:
        return read_names(Path(table))
    name = path.name.lower()
    stem = path.name[: -len(".nii.gz" if name.endswith(".nii.gz") else path.suffix)]
    beside = [path.with_name(stem + suffix) for suffix in _TABLES]
    found = [file for file in beside if file.is_file()]
    return read_names(found[0]) if found else {}


def read_names(path: Path) -> dict[int, str]:
    """Names of parcels by number from a text table.

    Raises:
        ValueError: No line begins with a number and a name.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text table ({error}).") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    separator = "\t" if lines and "\t" in lines[0] else "," if lines and "," in lines[0] else None
    rows = [
        [cell.strip() for cell in (line.split() if separator is None else row)]
        for line, row in zip(lines, csv.reader(lines, delimiter=separator or " "), strict=False)
    ]
    number, name = 0, 1
    if rows and not _is_whole(rows[0][0]):
        head = [cell.lower() for cell in rows[0]]
        number = next((head.index(key) for key in _NUMBER if key in head), 0)
        name = next((head.index(k) for k in _NAME if k in head and head.index(k) != number), 1)
        rows = rows[1:]
    most = max(number, name)
    found = {
        int(float(row[number])): row[name]
        for row in rows
        if len(row) > most and _is_whole(row[number]) and row[name]
    }
    if not found:
        raise ValueError(
            f"{path}: no names found; expected lines of a number and a name, such as "
            "`1<tab>LH_Vis_1`."
        )
    return found


def _is_whole(text: str) -> bool:
    try:
        return float(text) == int(float(text))
    except (ValueError, OverflowError):
        return False


def mask_on(
    mask: Path | str, image: Image, *, resample: bool = False
) -> Bool[np.ndarray, " voxel"]:
    """Voxels of an image inside a mask image (above half; any value but 0 for whole numbers).

    Args:
        resample: Bring a mask of another grid to the image's by the nearest voxel.

    Raises:
        ValueError: Another grid without `resample`, or no voxel of the image is inside.
    """
    held = open_image(mask)
    if not resample:
        require_same_grid(
            image,
            held,
            "mask",
            "Give a mask of the image's own space, or `resample: true` to take the nearest voxel.",
        )
    values = held.read_volume()
    values[~np.isfinite(values)] = 0
    fractions = bool((values != np.rint(values)).any())
    inside = nearest(values, held.grid, image.grid) > (0.5 if fractions else 0)
    if not inside.any():
        why = "is empty" if not (values > 0).any() else f"lies outside the voxels of {image.path}"
        raise ValueError(f"{held.path}: the mask {why}, so no voxel is left. Give another mask.")
    if resample and not held.grid.same(image.grid):
        _moved(held.path, "mask", image)
    return inside


def atlas_on(
    atlas: Atlas, path: Path, image: Image, *, parcels: tuple[int, ...]
) -> Int[np.ndarray, " voxel"]:
    """The parcel number of every voxel of an image, 0 outside the wanted parcels.

    Warns about parcels no voxel of the image is in.

    Raises:
        ValueError: No voxel of the image is in any of them.
    """
    labels = np.array(atlas.on(image.grid))
    labels[~np.isin(labels, parcels)] = 0
    present = set(np.unique(labels).tolist()) - {0}
    lost = [atlas.names[n] for n in parcels if n not in present]
    if not present:
        raise ValueError(
            f"{path}: no voxel of {image.path} lies in any of its {len(parcels)} parcels. Atlas "
            f"and image are in different spaces ({image.frame} space for the image), or the image "
            "covers another part."
        )
    if lost:
        report(
            Problem(
                "warning",
                f"{len(lost)} of {len(parcels)} parcels of {path.name} hold no voxel of the image: "
                f"{listed(lost)}.",
                "They are left out; the image does not cover them, or its voxels are too large.",
                "parcels_lost",
            ),
            str(image.path),
        )
    if not Grid(atlas.shape, atlas.affine).same(image.grid):
        _moved(path, "atlas", image)
    return labels


def _moved(path: Path, what: str, image: Image) -> None:
    size = " x ".join(f"{zoom:g}" for zoom in image.grid.zooms)
    report(
        Problem(
            "info",
            f"The {what} {path.name} was brought to the image's voxels of {size} mm.",
            "Nearest voxel, through both affines.",
            f"{what}_resampled",
        ),
        str(image.path),
    )


def implicit_mask(image: Image) -> Bool[np.ndarray, " voxel"]:
    """Voxels that are bright in the mean of the first volumes: those above 0.8 of the global mean.

    The global mean is that of the voxels above an eighth of the mean of all, as SPM's implicit
    mask takes it. For whoever has no mask: give one where there is one.

    Raises:
        ValueError: No voxel is bright.
    """
    total, count = np.zeros(image.n_voxels), 0
    for _, block in image.blocks():
        values = image.values(block[: _FIRST_VOLUMES - count])
        total += np.nan_to_num(values, posinf=0, neginf=0).sum(axis=0, dtype=np.float64)
        count += len(values)
        if count >= _FIRST_VOLUMES:
            break
    mean = total[image.order] / count
    bright = mean > mean.mean() / 8
    inside = mean > 0.8 * mean[bright].mean() if bright.any() else bright
    inside &= mean > 0
    if not inside.any():
        raise ValueError(
            f"{image.path}: no voxel stands out in the mean of the first {count} volumes. Give a "
            "mask, or `mask: all`."
        )
    return inside
