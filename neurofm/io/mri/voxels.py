"""From an image to time series: voxels in slabs, parcels as means, both in bounded memory.

`VoxelSeries` goes through the image once, looking at every volume; what does not fit into memory is
then read again slab by slab, from the image itself where its voxels lie together, else from a
temporary file that holds the wanted voxels only. `parcel_means` needs one pass and little memory,
whatever the size of the image.

Axes: channel = voxel or parcel, time = volume.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from neurofm.io.mri.images import Image
from neurofm.shapes import Bool, Float, Int

_ROWS = 1 << 18  # float64 values worked on at a time
_VOLUMES = 16  # read before they are turned from volumes into time series
_DEMEANED = 0.1  # |sum| over sum of |x| of a typical voxel, below which the mean was taken away
_NO_BASELINE = 1e-3  # of the average voxel


class Facts:
    """What a pass over all volumes finds out about the wanted channels.

    Attributes:
        empty: For every volume, whether all channels are zero in it.
        total: Sum over time of each channel.
        size: Sum over time of its absolute value.
    """

    def __init__(self, n_channels: int, n_times: int) -> None:
        self.empty: Bool[np.ndarray, " time"] = np.zeros(n_times, dtype=bool)
        self.total: Float[np.ndarray, " channel"] = np.zeros(n_channels)
        self.size: Float[np.ndarray, " channel"] = np.zeros(n_channels)

    def add(self, first: int, values: np.ndarray) -> None:
        """Look at volumes `time channel`, the first of them number `first`."""
        self.empty[first : first + len(values)] = ~values.any(axis=1)
        with np.errstate(invalid="ignore"):
            self.total += values.sum(axis=0, dtype=np.float64)
            self.size += np.abs(values).sum(axis=0, dtype=np.float64)

    @property
    def demeaned(self) -> bool:
        """Whether the mean of most channels was taken away before."""
        used = np.isfinite(self.size) & (self.size > 0)
        if not used.any():
            return False
        return bool(np.median(np.abs(self.total[used]) / self.size[used]) < _DEMEANED)

    @property
    def least_baseline(self) -> float:
        """Mean below which a channel has no baseline to be compared with."""
        used = np.isfinite(self.total)
        if not used.any():
            return 0.0
        return max(float(self.total[used].mean()) / len(self.empty) * _NO_BASELINE, 0.0)


class VoxelSeries:
    """The time series of some voxels of an image, as slabs of consecutive voxels.

    Args:
        image: What to read.
        index: Canonical numbers of the voxels.
        max_bytes: Memory one slab may take (float32).

    Raises:
        ValueError: The image is truncated.
        OSError: There is no room for the temporary file.
    """

    def __init__(
        self, image: Image, index: Int[np.ndarray, " voxel"], *, max_bytes: int | None = None
    ) -> None:
        self.image = image
        self.at = image.order[index]
        n, t = len(index), image.n_volumes
        self.facts = Facts(n, t)
        size = n if max_bytes is None else max(1, max_bytes // (4 * t))
        self.bounds = [(lo, min(lo + size, n)) for lo in range(0, n, size)]
        self._whole: np.ndarray | None = None
        self._file: IO[bytes] | None = None
        if len(self.bounds) == 1:
            self._whole = np.empty((n, t), dtype=np.float32)
        elif self._scattered():
            self._file = self._temporary(n * t * image.dtype.itemsize)
        for first, block in image.blocks():
            stored = block.take(self.at, axis=1)
            values = image.values(stored)
            self.facts.add(first, values)
            if self._whole is not None:
                self._whole[:, first : first + len(values)] = values.T
            elif self._file is not None:
                self._file.write(stored.data)

    def _scattered(self) -> bool:
        """Whether reading the slabs from the image would read much more than the image."""
        if self.image.compressed:
            return True
        spans = sum(int(np.ptp(self.at[lo:hi])) + 1 for lo, hi in self.bounds)
        return spans > 2 * self.image.n_voxels

    def _temporary(self, n_bytes: int) -> IO[bytes]:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if free < n_bytes:
            raise OSError(
                28,
                f"{self.image.path}: {n_bytes / 1e9:.1f} GB are needed for a temporary file in "
                f"{tempfile.gettempdir()}, {free / 1e9:.1f} GB are free. Set TMPDIR to a folder "
                "with room, or store the image uncompressed",
            )
        # Has no name, so that nothing stays behind whatever happens to this process.
        return tempfile.TemporaryFile(prefix="neurofm-")

    def slabs(self) -> Iterator[tuple[int, int, Float[np.ndarray, "channel time"]]]:
        """First and last voxel (by place in `index`) of each slab, and its values, float32."""
        if self._whole is not None:
            whole, self._whole = self._whole, None
            yield 0, len(self.at), whole
            return
        if self._file is not None:
            with self._file as file:
                for lo, hi in self.bounds:
                    yield lo, hi, self._read(file, 0, len(self.at), lo, np.arange(hi - lo))
            return
        with open(self.image.data_path, "rb", buffering=0) as file:
            for lo, hi in self.bounds:
                at = self.at[lo:hi]
                start = int(at.min())
                offset, n = self.image.offset, self.image.n_voxels
                yield lo, hi, self._read(file, offset, n, start, at - start)

    def _read(
        self, file: Any, offset: int, n_voxels: int, start: int, at: np.ndarray
    ) -> Float[np.ndarray, "channel time"]:
        """Voxels `start + at` of all volumes of `n_voxels` each."""
        image = self.image
        item, n_times = image.dtype.itemsize, image.n_volumes
        result = np.empty((len(at), n_times), dtype=np.float32)
        span = int(at.max()) + 1
        buffer = np.empty((_VOLUMES, span), dtype=image.dtype)
        for first in range(0, n_times, _VOLUMES):
            count = min(_VOLUMES, n_times - first)
            for i in range(count):
                file.seek(offset + ((first + i) * n_voxels + start) * item)
                if file.readinto(memoryview(buffer[i]).cast("B")) != span * item:
                    raise ValueError(f"{image.path}: became shorter while it was read.")
            result[:, first : first + count] = image.values(buffer[:count, at]).T
        return result


class ChannelSeries:
    """The time series of channels that are stored one after another, as slabs of them.

    Args:
        read: Channels from the first to before the second number, as `channel time`.
        n_channels: All channels.
        n_times: Samples of each.
        max_bytes: Memory one slab may take (float32).
    """

    def __init__(
        self,
        read: Callable[[int, int], np.ndarray],
        n_channels: int,
        n_times: int,
        *,
        max_bytes: int | None = None,
    ) -> None:
        self._read = read
        size = n_channels if max_bytes is None else max(1, max_bytes // (4 * n_times))
        self.bounds = [(lo, min(lo + size, n_channels)) for lo in range(0, n_channels, size)]
        self.facts = Facts(n_channels, n_times)
        self.facts.empty[:] = True
        self._whole: np.ndarray | None = None
        for lo, hi in self.bounds:
            data = np.asarray(read(lo, hi), dtype=np.float32)
            self.facts.empty &= ~data.any(axis=0)
            self.facts.total[lo:hi] = data.sum(axis=1, dtype=np.float64)
            self.facts.size[lo:hi] = np.abs(data).sum(axis=1, dtype=np.float64)
            if len(self.bounds) == 1:
                self._whole = data

    def slabs(self) -> Iterator[tuple[int, int, Float[np.ndarray, "channel time"]]]:
        """First and last channel of each slab, and its values, float32."""
        for lo, hi in self.bounds:
            whole, self._whole = self._whole, None
            yield lo, hi, np.array(self._read(lo, hi) if whole is None else whole, np.float32)


@dataclass(frozen=True)
class Source:
    """Channels that can be read, and what is known about them before.

    Args:
        series: Reads them.
        names: Of the channels.
        position: Metres; NaN where unknown.
        region: Label of each channel, "" where it has none.
        n_times: Samples of each channel.
        line: What they are, for the history.
        frame: "mni", "scanner" or "unknown".
        header: Seconds between volumes as the file says, or None; what is doubtful about it.
        details: For `Signal.details`.
    """

    series: VoxelSeries | ChannelSeries
    names: list[str]
    position: Float[np.ndarray, "channel 3"]
    region: list[str]
    n_times: int
    line: str
    frame: str
    header: tuple[float | None, str]
    details: dict[str, Any]


def percent_change(
    data: Float[np.ndarray, "channel time"], *, least: float = 0.0
) -> Bool[np.ndarray, " channel"]:
    """Turn time series into percent change from their own mean over time, in place.

    Args:
        data: Scanner units.
        least: Means up to this one are no baseline.

    Returns:
        Whether each channel has a baseline and finite values; the others are left at zero.
    """
    usable = np.zeros(len(data), dtype=bool)
    step = max(1, _ROWS // data.shape[1])
    for lo in range(0, len(data), step):
        rows = data[lo : lo + step].astype(np.float64)
        with np.errstate(invalid="ignore"):
            # Contiguous float64 rows, so that a row's mean does not depend on its neighbours.
            mean = rows.mean(axis=1)
        good = np.isfinite(rows).all(axis=1) & (mean > least)
        rows[~good], mean[~good] = 1.0, 1.0
        data[lo : lo + step] = 100.0 * (rows / mean[:, None] - 1.0)
        usable[lo : lo + step] = good
    return usable


def parcel_means(
    image: Image, labels: Int[np.ndarray, " voxel"]
) -> tuple[Float[np.ndarray, "channel time"], Int[np.ndarray, " channel"], int]:
    """Mean over the voxels of every parcel, volume by volume.

    Args:
        image: What to read.
        labels: Parcel of each canonical voxel, 0 = none.

    Returns:
        Means (float64) in ascending order of the parcel numbers; the voxels each is a mean of; and
        how many voxels were left out because they are NaN or infinite at some time.
    """
    member = np.flatnonzero(labels)
    member = member[np.argsort(labels[member], kind="stable")]
    numbers = np.unique(labels[member])
    left_out = 0
    while True:
        means, counts, bad = _means(image, labels, member, numbers)
        if bad is None:
            return means, counts, left_out
        left_out += int(bad.sum())
        member = member[~bad]


def _means(
    image: Image, labels: np.ndarray, member: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Means, voxel counts, and the voxels that must be left out before they can be trusted."""
    own = labels[member]
    starts = np.searchsorted(own, numbers)
    counts = np.diff(np.r_[starts, len(own)])
    some = counts > 0
    means = np.zeros((len(numbers), image.n_volumes))
    at = image.order[member]
    bad = np.zeros(len(member), dtype=bool)
    for first, block in image.blocks():
        for i, volume in enumerate(block):
            values = volume.take(at).astype(np.float64)
            # A parcel without a voxel has no piece of its own to be summed.
            sums = np.add.reduceat(values, starts[some]) if len(values) else np.zeros(0)
            if not np.isfinite(sums).all():
                bad |= ~np.isfinite(values)
            means[some, first + i] = sums / counts[some]
    means *= image.slope
    means += image.inter
    means[~some] = np.nan
    return means, counts, bad if bad.any() else None
