"""Views: a batch changed so that what it says of the brain stays, or changes in a known way.

Each takes a batch and gives one back; the batch itself is not changed. In time: the sign turned
around. In frequency: everything moved by a fraction of a hertz. In space: left and right exchanged,
and with them the classes that are each other's mirror image.

Source: MVCNet (arXiv 2502.17482).
Axes: batch channel time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.batch import Batch
from neurofm.cards import configured
from neurofm.shapes import Float
from neurofm.units import Kind

_PLACE = re.compile(r"([A-Z]+)(Z|\d{1,2})(H?)")
_OTHER_SIDE = {"left": "right", "right": "left"}


@configured
class Flip(nn.Module):
    """Turn the sign of every sample around: which electrode is the reference is a convention."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, batch: Batch) -> Batch:
        """The same windows upside down."""
        return replace(batch, x=-batch.x, tokens=None)


@configured
class ShiftFrequency(nn.Module):
    """Move all frequencies up by the same number of hertz.

    Args:
        hz: Hz; below 0 moves down.
        sfreq: Hz that is assumed in place of the batch's own. The original assumes 250, so that at
            512 Hz its 0.1 Hz are 0.205 Hz.
    """

    def __init__(self, hz: float = 0.1, *, sfreq: float | None = None) -> None:
        super().__init__()
        if sfreq is not None and not sfreq > 0:
            raise ValueError(f"ShiftFrequency: sfreq is {sfreq}, expected above 0.")
        self.hz, self.sfreq = hz, sfreq

    def forward(self, batch: Batch) -> Batch:
        """The same windows, a little faster."""
        x = shift_frequency(batch.x, self.hz, sfreq=self.sfreq or batch.sfreq)
        return replace(batch, x=x, tokens=None)


@configured
class ReflectChannels(nn.Module):
    """Exchange the channels of left and right, and the classes that are mirror images.

    Pairs are found by names of the 10-20 system (C3 and C4, FC5 and FC6), for other channels by
    positions. Channels on the midline stay. After Euclidean alignment the result is what reflecting
    first and aligning by the reflected windows' own covariance would give: a symmetric root of a
    matrix with exchanged rows and columns is the root with these exchanged.

    Args:
        classes: Names of the classes in the order of the recipe's `labels`: "left" and "right" are
            exchanged in them.
        unpaired: What to do if the mirror image of a class is no class: "error", or "keep" its
            label, as the original does for right hand against feet.
        pairs: Positions of the channels to exchange in place of pairs by name, as the original
            lists them for its corpora.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        unpaired: Literal["error", "keep"] = "error",
        pairs: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.mirrored = mirrored_classes(self.classes, unpaired=unpaired)
        self.pairs = None if pairs is None else [(int(a), int(b)) for a, b in pairs]
        used = [i for pair in self.pairs or () for i in pair]
        if len(set(used)) < len(used) or min(used, default=0) < 0:
            raise ValueError(f"ReflectChannels: pairs {pairs} name a channel twice, or below 0.")
        self._by_name: dict[tuple[str, ...], list[int]] = {}

    def forward(self, batch: Batch) -> Batch:
        """The windows of a mirrored head.

        Raises:
            ValueError: A channel without a partner, or a label that is no class.
        """
        order = self.order(batch)
        order += range(len(order), batch.x.shape[1])  # padding
        y = batch.y
        if y is not None:
            if batch.x.device.type == "cpu" and len(y) and int(y.max()) >= len(self.classes):
                raise ValueError(
                    f"ReflectChannels: a label is {int(y.max())}, but there are "
                    f"{len(self.classes)} classes ({', '.join(self.classes)})."
                )
            y = torch.tensor(self.mirrored, device=y.device)[y]
        return replace(batch, x=batch.x[:, order], y=y, tokens=None)

    def order(self, batch: Batch) -> list[int]:
        """Which channel comes to each place."""
        if self.pairs is not None:
            order, most = list(range(batch.x.shape[1])), max(map(max, self.pairs), default=0)
            if most >= len(order):
                raise ValueError(
                    f"ReflectChannels: pairs name channel {most}, but the batch has {len(order)}."
                )
            for first, second in self.pairs:
                order[first], order[second] = second, first
            return order
        names = batch.names
        if names in self._by_name:
            return list(self._by_name[names])
        try:
            found = mirrored_places(batch) if names is None else mirrored_names(names)
        except ValueError:
            if names is None:
                raise
            try:
                found = mirrored_places(batch)
            except ValueError as error:
                raise ValueError(f"{_by_names_failed(names)} {error}") from error
        if names is not None:
            self._by_name[names] = found
        return list(found)


def shift_frequency(
    x: Float[Tensor, "... time"], hz: float, *, sfreq: float
) -> Float[Tensor, "... time"]:
    """Move all frequencies up by `hz`, through the analytic signal of each channel.

    Args:
        sfreq: Hz.
    """
    n = x.shape[-1]
    padded = 1 << max(n - 1, 0).bit_length()
    # Twice the positive frequencies, the zeroth and the highest once: the analytic signal.
    weight = x.new_full((padded // 2 + 1,), 2.0)
    weight[[0, -1]] = 1.0
    spectrum = torch.fft.rfft(x, padded) * weight
    analytic = torch.fft.ifft(spectrum, padded)[..., :n]
    phase = 2 * torch.pi * hz / sfreq * torch.arange(n, dtype=torch.float64, device=x.device)
    return analytic.real * phase.cos().to(x.dtype) - analytic.imag * phase.sin().to(x.dtype)


def mirrored_names(names: Sequence[str]) -> list[int]:
    """The place of each channel's partner on the other side, by names of the 10-20 system.

    Raises:
        ValueError: A name that is not of that system, or whose partner is missing.
    """
    folded = [re.sub(r"[ .]", "", name).upper() for name in names]
    place = {name: i for i, name in enumerate(folded)}
    partners = [_partner(name) for name in folded]
    if any(partner not in place for partner in partners):
        raise ValueError(_by_names_failed(names))
    return [place[str(partner)] for partner in partners]


def mirrored_places(batch: Batch, *, tolerance: float = 0.01) -> list[int]:
    """The place of each channel's partner on the other side, by positions in the head frame.

    Args:
        tolerance: Metres between a channel's mirror image and its partner.

    Raises:
        ValueError: Unknown positions, other ones in other windows, or a channel without a partner.
    """
    real = batch.channel_mask[0]
    known = batch.has_position & batch.channel_mask
    same = (batch.position[:, real] == batch.position[:1, real]).all()
    if not bool(known[:, real].all() and (batch.channel_mask == real).all() and same):
        raise ValueError(
            "ReflectChannels: channels have no position, or windows differ in them. Pick the same "
            "channels for all (PickChannels), or give `pairs`."
        )
    place = batch.position[0, real].double().cpu().numpy()
    distance = np.linalg.norm((place * [-1, 1, 1])[:, None] - place, axis=-1)
    order = distance.argmin(1)
    far = distance.min(1) > tolerance
    lonely = np.flatnonzero(far | (order[order] != np.arange(len(order))))
    if len(lonely):
        kinds = {Kind(value).name for value in batch.kind[0, real].unique().tolist()}
        raise ValueError(
            f"ReflectChannels: {len(lonely)} of {len(order)} {'/'.join(sorted(kinds))} channels, "
            f"number {int(lonely[0])} first, have no channel within {100 * tolerance:g} cm of "
            "their mirror image. Pick a symmetric montage (PickChannels), or give `pairs`."
        )
    return order.tolist()


def mirrored_classes(
    classes: Sequence[str], *, unpaired: Literal["error", "keep"] = "error"
) -> list[int]:
    """The place of each class's mirror image: "left" and "right" are exchanged in its name.

    Args:
        unpaired: See `ReflectChannels`.

    Raises:
        ValueError: The mirror image of a class is no class.
    """
    if unpaired not in ("error", "keep"):
        raise ValueError(f"ReflectChannels: unpaired is {unpaired!r}, expected error or keep.")
    found = []
    for i, name in enumerate(classes):
        words = re.split(r"(left|right)", name)
        image = "".join(_OTHER_SIDE.get(word, word) for word in words)
        if image not in classes and unpaired == "error":
            raise ValueError(
                f"ReflectChannels: the mirror image of {name!r} is {image!r}, which is not among "
                f"the classes {', '.join(classes)}. Set `unpaired: keep` to keep its label."
            )
        found.append(classes.index(image) if image in classes else i)
    return found


def _partner(name: str) -> str | None:
    """The name on the other side; odd numbers are left, even ones right."""
    match = _PLACE.fullmatch(name)
    if match is None:
        return None
    region, number, half = match.groups()
    if number == "Z":
        return name
    return f"{region}{int(number) + (1 if int(number) % 2 else -1)}{half}"


def _by_names_failed(names: Sequence[str]) -> str:
    folded = {re.sub(r"[ .]", "", name).upper() for name in names}
    lonely = [n for n in names if _partner(re.sub(r"[ .]", "", n).upper()) not in folded]
    more = f" and {len(lonely) - 5} more" if len(lonely) > 5 else ""
    return (
        f"ReflectChannels: {', '.join(lonely[:5])}{more} of {len(names)} channels have no partner "
        "on the other side by name. Pick a symmetric montage (PickChannels), or give `pairs`."
    )
