"""NIfTI images of any size: opened lazily, read in blocks of volumes, never mapped into memory.

A volume is contiguous in a NIfTI file, so a block of volumes is one sequential read into a buffer
that is used again; a compressed file is inflated as a stream, from its start to its end. A memory
map would kill the process where a file is shorter than its header says, and would count as memory.

Voxels are numbered in canonical order: along the first axis of the image turned to RAS (right,
anterior, superior) fastest. Two files of the same brain stored left to right and right to left give
the same numbers.

Source: the NIfTI-1 and NIfTI-2 standards, read through nibabel.
Axes: volume = time point, voxel = canonical number. Affines and zooms in millimetres, as in files.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from neurofm.io.integrity import check_file
from neurofm.shapes import Float, Int

IMAGES = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")
BLOCK_BYTES = 8 << 20  # of one read
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_PLAUSIBLE_TR = (0.02, 60.0)  # seconds, where a header gives no unit
_FRAMES = {1: "scanner", 2: "scanner", 4: "mni"}  # qform and sform codes; 3 is Talairach


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie, in canonical orientation.

    Args:
        shape: Voxels to the right, to the front and up.
        affine: From voxel index to millimetres.
    """

    shape: tuple[int, int, int]
    affine: Float[np.ndarray, "4 4"]

    @property
    def n_voxels(self) -> int:
        """Voxels of one volume."""
        return int(np.prod(self.shape))

    @property
    def zooms(self) -> tuple[float, float, float]:
        """Voxel size, mm."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)

    def index(self, voxel: Int[np.ndarray, " voxel"]) -> Int[np.ndarray, "voxel 3"]:
        """Place on the three axes of voxels given by number."""
        return np.stack(np.unravel_index(voxel, self.shape, order="F"), axis=1)

    def positions(self, voxel: Int[np.ndarray, " voxel"]) -> Float[np.ndarray, "voxel 3"]:
        """Centres of voxels given by number, metres."""
        at = self.index(voxel) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return at / 1000.0

    def same(self, other: Grid) -> bool:
        """Whether all voxel centres agree to a hundredth of a voxel."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1)
        moved = (self.affine - other.affine)[:3] @ np.vstack([corners, np.ones(8)])
        return bool(np.abs(moved).max() <= 0.01 * min(self.zooms))


@dataclass(frozen=True)
class Image:
    """An opened image; no voxel has been read.

    Args:
        path: The file.
        data_path: The file with the voxels; another one for .hdr and .img pairs.
        shape: Of one volume, in the order of the file.
        n_volumes: 1 for a 3-D image.
        is_4d: Whether the file declares a time axis.
        affine: From index in the file to millimetres.
        dtype: As stored, byte order included.
        slope: Value = stored number x slope + inter.
        inter: See `slope`.
        offset: Bytes before the first voxel.
        tr_s: Seconds between volumes as the header says; None if it does not.
        tr_doubt: Why the header's value is no use or a guess; "" if it is neither.
        frame: "mni", "scanner" or "unknown", by the header's code.
    """

    path: Path
    data_path: Path
    shape: tuple[int, int, int]
    n_volumes: int
    is_4d: bool
    affine: Float[np.ndarray, "4 4"]
    dtype: np.dtype[Any]
    slope: float
    inter: float
    offset: int
    tr_s: float | None
    tr_doubt: str
    frame: str

    @property
    def compressed(self) -> bool:
        """Whether it can be read from start to end only."""
        return self.data_path.name.lower().endswith(".gz")

    @property
    def n_voxels(self) -> int:
        """Voxels of one volume."""
        return int(np.prod(self.shape))

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume in the file."""
        return self.n_voxels * self.dtype.itemsize

    @cached_property
    def _turn(self) -> Float[np.ndarray, "3 2"]:
        import nibabel

        return nibabel.io_orientation(self.affine)

    @cached_property
    def grid(self) -> Grid:
        """The canonical grid."""
        from nibabel.orientations import inv_ornt_aff

        shape = [0, 0, 0]
        for axis, (new, _) in enumerate(self._turn):
            shape[int(new)] = self.shape[axis]
        affine = self.affine @ inv_ornt_aff(self._turn, self.shape)
        return Grid((shape[0], shape[1], shape[2]), affine)

    @cached_property
    def order(self) -> Int[np.ndarray, " voxel"]:
        """Place in a stored volume of every canonical voxel."""
        import nibabel

        stored = np.arange(self.n_voxels).reshape(self.shape, order="F")
        return nibabel.apply_orientation(stored, self._turn).ravel(order="F").astype(np.int64)

    def values(self, stored: np.ndarray) -> np.ndarray:
        """Stored numbers as the header scales them, float32 (float64 for float64)."""
        wide = np.float64 if self.dtype.itemsize > 4 else np.float32
        result: np.ndarray = stored.astype(wide)
        if self.slope != 1:
            np.multiply(result, self.slope, out=result)
        if self.inter != 0:
            np.add(result, self.inter, out=result)
        return result

    def blocks(self, *, max_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, np.ndarray]]:
        """All volumes from first to last.

        Yields:
            Number of the first volume, and the stored numbers `volume voxel` in the order of the
            file. The array is filled anew for the next block: take what you need from it.

        Raises:
            ValueError: The file ends early or is damaged; the message says in which volume.
        """
        n = min(max(1, max_bytes // self.volume_bytes), self.n_volumes)
        buffer = bytearray(n * self.volume_bytes)
        with self._stream() as file:
            for first in range(0, self.n_volumes, n):
                count = min(n, self.n_volumes - first)
                view = memoryview(buffer)[: count * self.volume_bytes]
                got = self._fill(file, view, first)
                if got < len(view):
                    raise ValueError(
                        f"{self.path}: truncated: the header declares {self.n_volumes} volumes of "
                        f"{self.volume_bytes} bytes, the file ends in volume "
                        f"{first + got // self.volume_bytes}. Fetch it again."
                    )
                block = np.frombuffer(view, dtype=self.dtype)
                if self.compressed and first + count == self.n_volumes:
                    self._finish(file)
                yield first, block.reshape(count, self.n_voxels)

    @contextlib.contextmanager
    def _stream(self) -> Iterator[Any]:
        file: IO[bytes] | gzip.GzipFile
        if self.compressed:
            file = gzip.open(self.data_path, "rb")  # noqa: SIM115
        else:
            file = open(self.data_path, "rb", buffering=0)  # noqa: SIM115
        with file:
            try:
                if self.compressed:
                    file.read(self.offset)
                else:
                    file.seek(self.offset)
            except (EOFError, OSError, zlib.error) as error:
                raise self._damaged(0, error) from error
            yield file

    def _fill(self, file: Any, view: memoryview, first: int) -> int:
        got = 0
        try:
            while got < len(view):
                n = file.readinto(view[got:])
                if not n:
                    break
                got += n
        except (EOFError, OSError, zlib.error) as error:
            raise self._damaged(first + got // self.volume_bytes, error) from error
        return got

    def _finish(self, file: Any) -> None:
        """Go on to the end of a compressed file, where its checksum is."""
        try:
            while file.read(1 << 20):
                pass
        except (EOFError, OSError, zlib.error) as error:
            raise self._damaged(self.n_volumes - 1, error) from error

    def _damaged(self, volume: int, error: Exception) -> ValueError:
        return ValueError(
            f"{self.path}: truncated or damaged: volume {volume} of {self.n_volumes} cannot be "
            f"read ({error}). Fetch it again."
        )

    def read_volume(self) -> Float[np.ndarray, " voxel"]:
        """The only volume of a 3-D image, in canonical order, float64.

        Raises:
            ValueError: It has several volumes.
        """
        if self.n_volumes != 1:
            raise ValueError(
                f"{self.path}: {self.n_volumes} volumes, expected a 3-D image. Give one volume."
            )
        _, block = next(iter(self.blocks()))
        return self.values(block[0][self.order]).astype(np.float64)

    def describe(self) -> str:
        """Size, voxels, type and place in words."""
        voxel = " x ".join(f"{size:g}" for size in self.grid.zooms)
        size = " x ".join(map(str, self.grid.shape))
        return f"{size} voxels of {voxel} mm, {self.dtype.name}, {self.frame} space"


def is_image(path: Path) -> bool:
    """Whether the suffix is that of a NIfTI image (CIFTI files also end in .nii)."""
    name = path.name.lower()
    cifti = name.endswith(".nii") and name.split(".")[-2] in CIFTI_TYPES
    return name.endswith(IMAGES) and not cifti


CIFTI_TYPES = ("dtseries", "ptseries", "dlabel", "plabel", "dscalar", "pscalar", "dconn", "pconn")


def open_image(path: Path | str) -> Image:
    """Open a NIfTI-1 or NIfTI-2 image: the header is read and compared with the file's size.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: Not a NIfTI image, truncated, or of a type that is not a plain number.
    """
    import nibabel
    from nibabel.nifti1 import Nifti1Pair

    path = Path(path)
    check_file(path)
    try:
        loaded: Any = nibabel.load(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: its other half is missing ({error}).") from error
    except Exception as error:  # nibabel lets through whatever the parser stumbles on
        raise ValueError(
            f"{path}: not a NIfTI image, or its header is damaged ({error}). Fetch it again."
        ) from error
    if not isinstance(loaded, Nifti1Pair):
        raise ValueError(
            f"{path}: a {type(loaded).__name__}, expected a NIfTI volume image. CIFTI and GIFTI "
            "files are read by `neurofm.io.read_bold`; convert other formats to NIfTI."
        )
    header: Any = loaded.header
    shape, n_volumes, is_4d = _shape(path, tuple(int(n) for n in header.get_data_shape()))
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(
            f"{path}: voxels of type {dtype} (colour, complex or extended), expected integers or "
            "floats of at most 64 bits."
        )
    affine = np.array(loaded.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError(
            f"{path}: its affine {_rows(affine)} has no volume, so voxels have no place. Correct "
            "the header (sform, qform and pixdim)."
        )
    proxy: Any = loaded.dataobj
    tr_s, doubt = header_tr(header) if is_4d else (None, "")
    code = int(header["sform_code"]) or int(header["qform_code"])
    data_path = Path(str(loaded.file_map["image"].filename))
    image = Image(
        path=path,
        data_path=data_path,
        shape=shape,
        n_volumes=n_volumes,
        is_4d=is_4d,
        affine=affine,
        dtype=dtype,
        # The header's own copies are reset when nibabel opens a file.
        slope=float(proxy.slope),
        inter=float(proxy.inter),
        offset=int(proxy.offset),
        tr_s=tr_s,
        tr_doubt=doubt,
        frame=_FRAMES.get(code, "unknown"),
    )
    size = os.stat(data_path).st_size
    expected = image.offset + image.n_volumes * image.volume_bytes
    if not image.compressed and size < expected:
        raise ValueError(
            f"{data_path}: truncated: {n_volumes} volumes need {expected} bytes, the file has "
            f"{size}. Fetch it again."
        )
    return image


def _shape(path: Path, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], int, bool]:
    """Space, number of volumes, and whether there is a time axis."""
    is_4d = len(shape) >= 4
    if any(n < 1 for n in shape) or not shape:
        raise ValueError(f"{path}: an image of shape {shape} holds no voxels.")
    if any(n > 1 for n in shape[4:]):
        raise ValueError(
            f"{path}: {len(shape)} axes {shape}, expected x, y, z and time. Vector images such as "
            "deformation fields are not recordings."
        )
    x, y, z, t = (*shape[:4], 1, 1, 1)[:4]
    return (x, y, z), t, is_4d


def header_tr(header: Any) -> tuple[float | None, str]:
    """Seconds between volumes by a NIfTI header, or None; and what is doubtful about it."""
    value = round(float(header["pixdim"][4]), 6)
    unit = header.get_xyzt_units()[1]
    if not np.isfinite(value) or value <= 0:
        return None, f"the header's TR (pixdim[4]) is {value:g}"
    if unit in _SECONDS:
        return value * _SECONDS[unit], ""
    if unit != "unknown":
        return None, f"the fourth axis of the header is in {unit}, not in time"
    low, high = _PLAUSIBLE_TR
    if low <= value <= high:
        return value, f"the header's TR of {value:g} has no unit, taken as seconds"
    if low <= value / 1000 <= high:
        return value / 1000, f"the header's TR of {value:g} has no unit, taken as milliseconds"
    return None, f"the header's TR is {value:g} without a unit"


def _rows(affine: np.ndarray) -> str:
    """An affine for a message."""
    return "[" + "; ".join(" ".join(f"{v:g}" for v in row) for row in affine[:3]) + "]"


def require_same_grid(image: Image, other: Image, what: str, remedy: str) -> None:
    """Raise ValueError, naming both affines, unless two images have the same voxels."""
    one, two = image.grid, other.grid
    if one.same(two):
        return
    raise ValueError(
        f"{other.path}: the {what} has {' x '.join(map(str, two.shape))} voxels and the affine "
        f"{_rows(two.affine)}, but {image.path} has {' x '.join(map(str, one.shape))} and "
        f"{_rows(one.affine)} (both turned to RAS). {remedy}"
    )


def nearest(values: np.ndarray, own: Grid, grid: Grid) -> np.ndarray:
    """Values of one grid at the voxel centres of another: the nearest voxel's, 0 outside."""
    if own.same(grid):
        return values
    to = np.linalg.inv(own.affine) @ grid.affine
    volume = values.reshape(own.shape, order="F")
    result = np.zeros(grid.shape, dtype=values.dtype, order="F")
    i, j = np.meshgrid(np.arange(grid.shape[0]), np.arange(grid.shape[1]), indexing="ij")
    for k in range(grid.shape[2]):  # one slice at a time: coordinates take 24 bytes a voxel
        at = np.stack([i.ravel(), j.ravel(), np.full(i.size, k)])
        # Rounded first, so that a centre halfway between two voxels falls on the same side always.
        near = np.floor(np.round(to[:3, :3] @ at + to[:3, 3:], 6) + 0.5).astype(np.int64)
        inside = ((near >= 0) & (near < np.array(own.shape)[:, None])).all(axis=0)
        plane = np.zeros(i.size, dtype=values.dtype)
        plane[inside] = volume[tuple(near[:, inside])]
        result[:, :, k] = plane.reshape(i.shape)
    return result.ravel(order="F")
