"""Preprocessing steps that choose, repair or limit channels.

Axes: channel = sensor, time = sample.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from neurofm.cards import configured
from neurofm.data.steps.sensors import bad_channels
from neurofm.data.steps.step import noted, require_finite
from neurofm.io.meeg import signal_to_raw
from neurofm.types import Signal
from neurofm.units import UNITS, Kind


@configured
@dataclass(frozen=True)
class InterpolateBads:
    """Find bad channels and replace them by interpolation from their neighbours.

    Interpolation is MNE's: spherical splines for EEG, fields of equivalent sources for MEG. Bad
    channels without a position cannot be replaced: they stay, with a warning.

    Args:
        detect: Find bad channels with `bad_channels`.
        names: Channels known to be bad.
        kinds: Kinds to look at, each by itself.
        factor: See `bad_channels`.
    """

    detect: bool = True
    names: Sequence[str] = ()
    kinds: Sequence[str | Kind] = ("eeg",)
    factor: float = 10.0

    def __call__(self, signal: Signal) -> Signal:
        """The repaired signal.

        Raises:
            ValueError: More than half of a kind's channels are bad, or too few good ones have a
                position.
        """
        named = set(find_channels(signal, self.names, "InterpolateBads").tolist())
        data = signal.data.copy()
        repaired: list[str] = []
        left: list[str] = []
        looked_at = 0
        for kind in kinds_of(self.kinds):
            own = np.flatnonzero(signal.sensors.kind == kind)
            looked_at += len(own)
            bad = np.isin(own, list(named))
            if self.detect and len(own):
                bad |= bad_channels(signal.data[own], signal.sfreq, factor=self.factor)
            if not bad.any():
                continue
            names = [signal.sensors.names[i] for i in own[bad]]
            if bad.sum() > len(own) / 2:
                raise ValueError(
                    f"{signal.recording.id}: {len(names)} of {len(own)} {kind.name} channels are "
                    f"bad ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''}); repairing "
                    "more than half would invent the recording. Leave it out, or look at its unit "
                    "and filters first."
                )
            placed = signal.sensors.has_position[own]
            left += [signal.sensors.names[i] for i in own[bad & ~placed]]
            source, target = own[~bad & placed], own[bad & placed]
            if len(target):
                data[target] = _interpolation(signal, source, target) @ signal.data[source]
                repaired += [signal.sensors.names[i] for i in target]
        if left:
            warnings.warn(
                f"{signal.recording.id}: {len(left)} bad channels of {looked_at} have no known "
                f"position and were not repaired: {', '.join(left[:8])}. Give them positions "
                "(`montage` in the card's reader) or drop them with PickChannels.",
                stacklevel=2,
            )
        line = f"interpolate bad channels: {len(repaired)} of {looked_at}"
        line += f" ({', '.join(repaired)})" if repaired else ""
        line += f"; bad but without position: {', '.join(left)}" if left else ""
        return noted(signal, data, line)


@configured
@dataclass(frozen=True)
class PickKinds:
    """Keep the channels of these kinds.

    Args:
        kinds: Names of `units.Kind`, such as "eeg", "mag", "grad".
    """

    kinds: Sequence[str | Kind]

    def __call__(self, signal: Signal) -> Signal:
        """The channels of those kinds, in file order."""
        picked = signal.pick_kinds(kinds_of(self.kinds))
        if not len(picked.sensors):
            raise ValueError(
                f"{signal.recording.id}: no channel of kind {kind_names(self.kinds)}; it has "
                f"{kinds_present(signal)}."
            )
        line = f"pick {kind_names(self.kinds)}: {len(picked.sensors)} of {len(signal.sensors)}"
        return noted(picked, picked.data, f"{line} channels")


@configured
@dataclass(frozen=True)
class PickChannels:
    """Keep the named channels, in the order of the names.

    Args:
        names: All must exist.
    """

    names: Sequence[str]

    def __call__(self, signal: Signal) -> Signal:
        """The named channels."""
        picked = signal.pick(find_channels(signal, self.names, "PickChannels"))
        line = f"pick {len(picked.sensors)} of {len(signal.sensors)} channels by name"
        return noted(picked, picked.data, line)


@configured
@dataclass(frozen=True)
class Clip:
    """Limit the amplitude.

    Args:
        limit: Working unit of the channels (microvolts for EEG).
        kinds: Which channels; None for all, if they share one unit.
    """

    limit: float
    kinds: Sequence[str | Kind] | None = None
    by_channel: ClassVar[bool] = True

    def __call__(self, signal: Signal) -> Signal:
        """The signal between -limit and limit."""
        if not self.limit > 0:
            raise ValueError(f"Clip: limit is {self.limit}, expected above 0.")
        require_finite(signal, "Clip")
        if "unit" in signal.details:
            raise ValueError(
                f"{signal.recording.id}: Clip at {self.limit:g} means nothing here: the numbers "
                f"are in {signal.details['unit']!r}, not in the unit of their kind."
            )
        kinds = kinds_of(self.kinds) if self.kinds is not None else tuple(Kind)
        chosen = np.isin(signal.sensors.kind, [int(kind) for kind in kinds])
        units = sorted({UNITS[Kind(int(k))].name for k in signal.sensors.kind[chosen]})
        if len(units) > 1:
            raise ValueError(
                f"{signal.recording.id}: Clip at {self.limit:g} means different things in "
                f"{' and '.join(units)}. Use one Clip per kind, with `kinds`."
            )
        data = signal.data.copy()
        data[chosen] = np.clip(signal.data[chosen], -self.limit, self.limit)
        share = float(np.mean(data[chosen] != signal.data[chosen])) if chosen.any() else 0.0
        unit = f" {units[0]}" if units else ""
        line = f"clip at {self.limit:g}{unit}: {share:.2%} of samples changed"
        return noted(signal, data, line)


def _interpolation(signal: Signal, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """MNE's interpolation as a matrix, target x source: one impulse per channel goes through it.

    So the recording itself, which may be long and hold NaN, is never copied.
    """
    if len(source) < 4:
        raise ValueError(
            f"{signal.recording.id}: only {len(source)} good channels have a position, too few to "
            "interpolate. Set `montage` in the card's reader, or drop the bad channels."
        )
    index = np.concatenate([source, target])
    impulses = replace(signal.pick(index), data=np.eye(len(index), dtype=np.float32), events=())
    raw = signal_to_raw(impulses)
    scale = raw.get_data()[0, 0]
    raw.info["bads"] = [signal.sensors.names[i] for i in target]
    raw.interpolate_bads(mode="accurate", origin=(0.0, 0.0, 0.04), verbose="ERROR")
    return raw.get_data()[len(source) :, : len(source)] / scale


def kinds_of(names: Sequence[str | Kind]) -> tuple[Kind, ...]:
    """Kinds from their names."""
    found = []
    for name in names:
        if not isinstance(name, Kind) and name.upper() not in Kind.__members__:
            known = ", ".join(kind.name.lower() for kind in Kind if kind >= 0)
            raise ValueError(f"channel kind {name!r} is not known; expected one of {known}.")
        found.append(name if isinstance(name, Kind) else Kind[name.upper()])
    return tuple(found)


def kind_names(kinds: Sequence[str | Kind]) -> str:
    """Kinds in words, for a message."""
    return ", ".join(kind.name.lower() for kind in kinds_of(kinds))


def kinds_present(signal: Signal) -> str:
    """The kinds of a recording's channels in words, with their numbers."""
    values, counts = np.unique(signal.sensors.kind, return_counts=True)
    return ", ".join(f"{n} {Kind(int(v)).name}" for v, n in zip(values, counts, strict=True))


def find_channels(signal: Signal, names: str | Sequence[str], step: str) -> np.ndarray:
    """Positions of named channels; the error for unknown ones gives near misses."""
    wanted = [names] if isinstance(names, str) else list(names)
    have = {name: i for i, name in enumerate(signal.sensors.names)}
    unknown = [name for name in wanted if name not in have]
    if unknown:
        folded = {name.casefold().strip(" ."): name for name in have}
        near = difflib.get_close_matches(unknown[0].casefold().strip(" ."), folded, n=3)
        hint = f" Did you mean {', '.join(folded[name] for name in near)}?" if near else ""
        raise ValueError(
            f"{signal.recording.id}: {step}: {len(unknown)} of {len(wanted)} channels are not in "
            f"the recording, first {unknown[0]!r}.{hint}"
        )
    return np.array([have[name] for name in wanted], dtype=int)
