"""Which sources belong to which parcel, from labels on the cortex, an atlas image or a table.

Sources of an MNE operator are points in the head frame. Labels name vertices of the cortex
directly; atlas images and tables of centres are in MNI space, so they need the way from the head to
it.

Axes: parcel; source x 3 in metres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.io.integrity import check_file, suffix_of
from neurofm.io.quality import listed
from neurofm.shapes import Float

if TYPE_CHECKING:
    import mne

_MILLI = 1e-3
_HEAD, _MRI = 4, 5  # FIFFV_COORD_HEAD, FIFFV_COORD_MRI
_OUTSIDE = ("unknown", "medial_wall", "medial wall", "???", "background")


@dataclass(frozen=True)
class Parcellation:
    """Groups of sources.

    Args:
        names: One per parcel.
        members: Indices of each parcel's sources.
        position: Centroid of those sources, metres.
        frame: "head" or "mni".
        n_sources: All sources there are, in a parcel or not.
    """

    names: tuple[str, ...]
    members: tuple[np.ndarray, ...]
    position: Float[np.ndarray, "parcel 3"]
    frame: str
    n_sources: int

    def __post_init__(self) -> None:
        empty = [name for name, own in zip(self.names, self.members, strict=True) if not len(own)]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(self.names)} parcels hold none of the {self.n_sources} "
                f"sources: {listed(empty)}. Use a finer source space, check the way to MNI space, "
                "or leave those parcels out."
            )

    def __len__(self) -> int:
        return len(self.names)


def parcels_from_labels(
    operator: Mapping[str, Any],
    labels: Sequence[mne.Label],
    *,
    head_to_mni: Float[np.ndarray, "4 4"] | None = None,
) -> Parcellation:
    """Parcels of a cortical source space.

    Args:
        operator: Forward solution or inverse operator.
        labels: MNE labels; "unknown" and the medial wall are left out.
        head_to_mni: As in `parcels_from_centres`; for the centroids only.

    Raises:
        ValueError: The source space is no cortical surface, or a parcel holds no source.
    """
    spaces = operator["src"]
    if len(spaces) != 2 or any(space["type"] != "surf" for space in spaces):
        kinds = ", ".join(str(space["type"]) for space in spaces)
        raise ValueError(
            f"Labels need a source space on both cortical surfaces, this one is: {kinds}. Use an "
            "atlas image or a table of centres for volumes."
        )
    first = {"lh": 0, "rh": len(spaces[0]["vertno"])}
    names, members = [], []
    for label in labels:
        if label.name.rsplit("-", 1)[0].lower() in _OUTSIDE:
            continue
        side = 0 if label.hemi == "lh" else 1
        inside = np.flatnonzero(np.isin(spaces[side]["vertno"], label.vertices))
        names.append(label.name)
        members.append(first[label.hemi] + inside)
    points, frame = source_points(operator, head_to_mni)
    return _parcellation(names, members, points, frame)


def parcels_from_centres(
    operator: Mapping[str, Any],
    centres: Mapping[str, Sequence[float] | np.ndarray],
    *,
    radius_m: float | None = None,
    head_to_mni: Float[np.ndarray, "4 4"] | None = None,
) -> Parcellation:
    """Every source goes to the nearest centre.

    Args:
        operator: Forward solution or inverse operator.
        centres: Name -> metres, in MNI space if `head_to_mni` is given, else in the head frame.
        radius_m: Sources farther away from their centre belong to no parcel.
        head_to_mni: Affine from the head frame to MNI space, metres.

    Raises:
        ValueError: A parcel holds no source.
    """
    points, frame = source_points(operator, head_to_mni)
    places = np.array(list(centres.values()), dtype=np.float64)
    distance = np.linalg.norm(points[:, None] - places[None], axis=2)
    nearest = distance.argmin(axis=1)
    inside = distance.min(axis=1) <= (np.inf if radius_m is None else radius_m)
    members = [np.flatnonzero((nearest == i) & inside) for i in range(len(places))]
    return _parcellation(list(centres), members, points, frame)


def parcels_from_image(
    operator: Mapping[str, Any],
    path: Path,
    *,
    head_to_mni: Float[np.ndarray, "4 4"],
    names: Mapping[int, str] | None = None,
) -> Parcellation:
    """Every source goes to the parcel of the voxel it lies in.

    Args:
        operator: Forward solution or inverse operator.
        path: NIfTI in MNI space: whole numbers, 0 outside; or one image per parcel along the
            fourth axis, where the largest value above 0 decides.
        head_to_mni: As in `parcels_from_centres`.
        names: Number in the image (from 1 along a fourth axis) -> name; all of them must occur.
            Without, every number in the image is a parcel, called "parcel-<number>".

    Raises:
        ValueError: A parcel holds no source.
    """
    import nibabel

    check_file(path)
    image: Any = nibabel.load(path)
    values = np.asarray(image.dataobj)
    if values.ndim == 4:
        values = np.where(values.max(axis=3) > 0, values.argmax(axis=3) + 1, 0)
    values = np.rint(values).astype(np.int64)
    points, frame = source_points(operator, head_to_mni)
    to_voxel = np.linalg.inv(image.affine)
    voxel = np.rint(points / _MILLI @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int)
    inside = ((voxel >= 0) & (voxel < values.shape)).all(axis=1)
    number = np.zeros(len(points), dtype=np.int64)
    number[inside] = values[tuple(voxel[inside].T)]
    if names is None:
        names = {int(n): f"parcel-{n}" for n in np.unique(values) if n != 0}
    members = [np.flatnonzero(number == n) for n in names]
    return _parcellation(list(names.values()), members, points, frame)


def read_parcels(
    operator: Mapping[str, Any],
    path: Path,
    *,
    head_to_mni: Float[np.ndarray, "4 4"] | None = None,
    radius_m: float | None = None,
) -> Parcellation:
    """Parcels as a file describes them.

    Args:
        operator: Forward solution or inverse operator.
        path: NIfTI atlas; table of centres (`.tsv` or `.csv` with columns name, x, y, z in
            millimetres); FreeSurfer annotation of one hemisphere (the other is read along); or a
            folder of `.label` files.
        head_to_mni: As in `parcels_from_centres`.
        radius_m: As in `parcels_from_centres`.

    Raises:
        ValueError: An unknown kind of file, or an atlas image without a way to MNI space.
    """
    import mne

    suffix = suffix_of(path)
    if suffix in {".nii", ".nii.gz"}:
        if head_to_mni is None:
            raise ValueError(
                f"{path}: an atlas image needs the way from the head to MNI space: give "
                "`head_to_mni`, a transform file."
            )
        return parcels_from_image(operator, path, head_to_mni=head_to_mni)
    if suffix in {".tsv", ".csv"}:
        return parcels_from_centres(
            operator, _centres(path), head_to_mni=head_to_mni, radius_m=radius_m
        )
    if path.is_dir():
        labels = [mne.read_label(file) for file in sorted(path.glob("*.label"))]
    elif suffix == ".annot":
        labels = [label for file in _hemispheres(path) for label in _annotation(file)]
    else:
        labels = []
    if not labels:
        raise ValueError(
            f"{path}: no parcels there: expected a NIfTI atlas, a .tsv or .csv of centres, an "
            ".annot file or a folder of .label files."
        )
    return parcels_from_labels(operator, labels, head_to_mni=head_to_mni)


def source_points(
    operator: Mapping[str, Any], head_to_mni: Float[np.ndarray, "4 4"] | None = None
) -> tuple[Float[np.ndarray, "source 3"], str]:
    """Places of an operator's sources and the name of their frame, in the order of its rows."""
    points = []
    for space in operator["src"]:
        place = np.asarray(space["rr"][space["vertno"]], dtype=np.float64)
        if int(space["coord_frame"]) == _MRI:
            to_head = np.asarray(operator["mri_head_t"]["trans"])
            place = place @ to_head[:3, :3].T + to_head[:3, 3]
        elif int(space["coord_frame"]) != _HEAD:
            raise ValueError(
                f"The source space is in frame {int(space['coord_frame'])}, expected head or MRI "
                "coordinates."
            )
        points.append(place)
    joined = np.concatenate(points)
    if head_to_mni is None:
        return joined, "head"
    return joined @ head_to_mni[:3, :3].T + head_to_mni[:3, 3], "mni"


def _parcellation(
    names: Sequence[str], members: Sequence[np.ndarray], points: np.ndarray, frame: str
) -> Parcellation:
    centroid = [points[own].mean(axis=0) if len(own) else np.full(3, np.nan) for own in members]
    return Parcellation(
        tuple(names), tuple(members), np.array(centroid).reshape(-1, 3), frame, len(points)
    )


def _centres(path: Path) -> dict[str, Sequence[float] | np.ndarray]:
    check_file(path)
    separator = "\t" if suffix_of(path) == ".tsv" else ","
    lines = [
        [cell.strip() for cell in line.split(separator)]
        for line in path.read_text(encoding="utf-8-sig").splitlines()
        if line.strip()
    ]
    head = [cell.lower() for cell in lines[0]]
    try:
        columns = [head.index(name) for name in ("name", "x", "y", "z")]
        rows = [[row[i] for i in columns] for row in lines[1:]]
        return {name: _MILLI * np.array(place, dtype=np.float64) for name, *place in rows}
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{path}: expected columns name, x, y, z (millimetres), found {listed(head)} ({error})."
        ) from error


def _hemispheres(path: Path) -> list[Path]:
    """lh.x.annot and rh.x.annot, given either."""
    if not path.name.startswith(("lh.", "rh.")):
        return [path]
    both = [path.with_name(side + path.name[2:]) for side in ("lh", "rh")]
    return [file for file in both if file.exists()]


def _annotation(path: Path) -> list[mne.Label]:
    """Labels of a FreeSurfer annotation, without the rest of a FreeSurfer folder."""
    import mne
    import nibabel.freesurfer

    check_file(path)
    side = path.name[:2]
    if side not in ("lh", "rh"):
        raise ValueError(f"{path}: the name must start with lh. or rh., to tell the hemisphere.")
    number, _, names = nibabel.freesurfer.read_annot(path)
    return [
        mne.Label(np.flatnonzero(number == i), hemi=side, name=f"{name.decode()}-{side}")
        for i, name in enumerate(names)
        if (number == i).any()
    ]
