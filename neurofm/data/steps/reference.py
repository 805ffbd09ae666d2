"""Preprocessing steps that change what the electrodes are measured against.

A potential is always a difference. `Rereference` subtracts one common signal; `Bipolar` and
`Laplacian` subtract neighbours on the same shaft, strip or grid, which removes what is common to
them and keeps what is local. Shafts are parsed from the channels' names (`io.contacts`).

Source: Li et al. 2018, NeuroImage 183:327 (references for stereo-EEG); bipolar as in Du-IN
(arXiv 2405.11459).
Axes: channel = sensor, time = sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from neurofm.cards import configured
from neurofm.data.steps.channels import find_channels, kind_names, kinds_of, kinds_present
from neurofm.data.steps.pairs import paired
from neurofm.data.steps.sensors import bad_channels
from neurofm.data.steps.step import noted, require_finite
from neurofm.io.contacts import LONGEST_STRIP, Contact, shafts_of
from neurofm.io.quality import listed
from neurofm.shapes import Bool
from neurofm.types import Signal
from neurofm.units import Kind

_INSIDE = ("seeg", "ecog")


@configured
@dataclass(frozen=True)
class Rereference:
    """Subtract a reference from the electrodes of each kind; magnetic channels are left alone.

    Args:
        to: "average", or names of reference channels, whose mean is subtracted from the channels of
            their kind. A single reference becomes zero.
        kinds: Kinds that have a reference at all.
        within: The average is that of all channels of a "kind", or of each "shaft" (strip, grid) by
            itself. Channels that are no contact of a shaft stay as they are, and are counted.
        detect: Leave flat channels, and those with a spectrum unlike all others of the kind, out
            of the average (see `bad_channels`); the average is subtracted from them as well.
        bad: Channels known to be bad, left out likewise, like those the recording's own files call
            bad (`details["bad_channels"]`).
    """

    to: str | Sequence[str] = "average"
    kinds: Sequence[str | Kind] = ("eeg", "seeg", "ecog")
    within: Literal["kind", "shaft"] = "kind"
    detect: bool = True
    bad: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.within not in ("kind", "shaft"):
            raise ValueError(f"Rereference: within is {self.within!r}, expected kind or shaft.")
        if self.within == "shaft" and self.to != "average":
            raise ValueError(f'Rereference: within="shaft" needs to="average", not {self.to!r}.')

    def __call__(self, signal: Signal) -> Signal:
        """The re-referenced signal.

        Raises:
            ValueError: Nothing to do, no shafts in the names, or no good channel in a kind.
        """
        require_finite(signal, "Rereference")
        named = None if self.to == "average" else find_channels(signal, self.to, "Rereference")
        bad = _bad(signal, kinds_of(self.kinds), self.bad, self.detect and named is None)
        data = signal.data.copy()
        done = []
        for kind in kinds_of(self.kinds):
            own = np.flatnonzero(signal.sensors.kind == kind)
            groups = [own]
            if self.within == "shaft" and len(own):
                shafts = _shafts(signal, own, "Rereference").values()
                groups = [np.array(list(members.values())) for members in shafts]
            for group in groups:
                if named is None:
                    reference = group[~bad[group]] if len(group) > 1 else group[:0]
                else:
                    reference = np.array([i for i in named if i in set(group.tolist())], dtype=int)
                if len(group) > 1 and named is None and len(reference) < 2:
                    raise ValueError(
                        f"{signal.recording.id}: Rereference: {len(group) - len(reference)} of "
                        f"{len(group)} {kind.name} channels "
                        f"({listed([signal.sensors.names[i] for i in group])}) are bad, too many "
                        "for an average. Leave them out with PickChannels."
                    )
                if len(reference):
                    mean = signal.data[reference].mean(axis=0, dtype=np.float64)
                    data[group] = signal.data[group] - mean
                    done.append((kind, len(group), len(reference)))
        if not done:
            raise ValueError(
                f"{signal.recording.id}: Rereference to {self.to!r} found nothing to do; kinds "
                f"here: {kinds_present(signal)}, wanted {kind_names(self.kinds)}. Remove the step."
            )
        line = f"re-reference to {self.to}{' of each shaft' if self.within == 'shaft' else ''}: "
        line += "; ".join(f"{n} {kind.name} channels by the mean of {m}" for kind, n, m in done)
        return noted(signal, data, line + _note(signal, bad))


@configured
@dataclass(frozen=True)
class Bipolar:
    """Differences of neighbouring contacts: the channel A1-A2 is A1 minus A2.

    Its position is the middle between the two, its region theirs if they agree. Single contacts of
    those kinds disappear; channels of other kinds stay, after the pairs.

    Args:
        kinds: Kinds to pair.
        columns: For grids, the contacts in a row by the grid's letters ("G": 8); pairs then stay
            within rows. Needed for more than 24 contacts, whose layout a name does not tell.
        detect: Leave out pairs of which a contact is bad, see `Rereference`.
        bad: Contacts known to be bad.
    """

    kinds: Sequence[str | Kind] = _INSIDE
    columns: Mapping[str, int] | None = None
    detect: bool = True
    bad: Sequence[str] = ()

    def __call__(self, signal: Signal) -> Signal:
        """The pairs.

        Raises:
            ValueError: No shafts in the names, a grid of unknown layout, or no pair is left.
        """
        require_finite(signal, "Bipolar")
        kinds = kinds_of(self.kinds)
        own = _own(signal, kinds, "Bipolar")
        bad = _bad(signal, kinds, self.bad, self.detect)
        pairs, names, dropped = [], [], 0
        for shaft, members in _shafts(signal, own, "Bipolar").items():
            width = _width(signal, shaft, members, self.columns)
            for number, i in members.items():
                j = members.get(number + 1)
                if j is None or (width is not None and number % width == 0):
                    continue
                if bad[i] or bad[j]:
                    dropped += 1
                    continue
                pairs.append((i, j))
                names.append("-".join(Contact(shaft, n).name for n in (number, number + 1)))
        if not pairs:
            raise ValueError(
                f"{signal.recording.id}: Bipolar: no two good neighbouring contacts among "
                f"{len(own)} channels; {dropped} pairs have a bad one. Look at the recording with "
                "`neurofm check`."
            )
        rest = np.setdiff1d(np.arange(len(signal.sensors)), own)
        first, second = np.array(pairs).T
        data = np.concatenate([signal.data[first] - signal.data[second], signal.data[rest]])
        sensors = paired(signal.sensors, names, first, second, rest)
        line = f"bipolar: {len(pairs)} pairs of {len(own)} contacts"
        line += f"; {dropped} pairs with a bad contact left out" if dropped else ""
        return noted(replace(signal, sensors=sensors, data=data), data, line + _note(signal, bad))


@configured
@dataclass(frozen=True)
class Laplacian:
    """Each contact minus the mean of its neighbours on the shaft (on a grid, of up to four).

    Args:
        kinds: Kinds to refer.
        ends: What becomes of a contact with a neighbour on one side only: "one_sided" subtracts
            that one, "drop" leaves the contact out.
        columns: As in `Bipolar`.
        detect: Leave bad contacts out, as neighbours and as channels, see `Rereference`.
        bad: Contacts known to be bad.
    """

    kinds: Sequence[str | Kind] = _INSIDE
    ends: Literal["one_sided", "drop"] = "one_sided"
    columns: Mapping[str, int] | None = None
    detect: bool = True
    bad: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.ends not in ("one_sided", "drop"):
            raise ValueError(f"Laplacian: ends is {self.ends!r}, expected one_sided or drop.")

    def __call__(self, signal: Signal) -> Signal:
        """The contacts against their neighbours; other kinds unchanged, all in file order.

        Raises:
            ValueError: As `Bipolar`.
        """
        require_finite(signal, "Laplacian")
        kinds = kinds_of(self.kinds)
        own = _own(signal, kinds, "Laplacian")
        bad = _bad(signal, kinds, self.bad, self.detect)
        data = signal.data.copy()
        kept, ends = [], 0
        for shaft, members in _shafts(signal, own, "Laplacian").items():
            width = _width(signal, shaft, members, self.columns)
            for number, i in members.items():
                beside = [members[k] for k in _beside(number, width) if k in members]
                good = [j for j in beside if not bad[j]]
                if bad[i] or not good or (len(good) < 2 and self.ends == "drop"):
                    continue
                data[i] = signal.data[i] - signal.data[good].mean(axis=0, dtype=np.float64)
                kept.append(i)
                ends += len(good) < 2
        if not kept:
            raise ValueError(
                f"{signal.recording.id}: Laplacian: none of {len(own)} contacts has enough good "
                'neighbours. Use ends="one_sided", or leave the step out.'
            )
        rest = np.setdiff1d(np.arange(len(signal.sensors)), own)
        result = replace(signal, data=data).pick(np.sort([*kept, *rest]))
        line = f"Laplacian: {len(kept)} of {len(own)} contacts, {ends} of them one-sided"
        return noted(result, result.data, line + _note(signal, bad))


def _own(signal: Signal, kinds: Sequence[Kind], step: str) -> np.ndarray:
    own = np.flatnonzero(np.isin(signal.sensors.kind, [int(kind) for kind in kinds]))
    if not len(own):
        raise ValueError(
            f"{signal.recording.id}: {step}: no channel of kind {kind_names(kinds)}; it has "
            f"{kinds_present(signal)}. Declare contacts with `kinds` in the card's reader."
        )
    return own


def _bad(
    signal: Signal, kinds: Sequence[Kind], names: Sequence[str], detect: bool
) -> Bool[np.ndarray, " channel"]:
    """True for channels that the recording's files or `names` call bad, or that are found to be."""
    marked = set(signal.details.get("bad_channels", ()))
    bad = np.array([name in marked for name in signal.sensors.names], dtype=bool)
    bad[find_channels(signal, list(names), "bad")] = True
    for kind in kinds if detect else ():
        own = np.flatnonzero(signal.sensors.kind == kind)
        if len(own):
            bad[own] |= bad_channels(signal.data[own], signal.sfreq)
    return bad


def _note(signal: Signal, bad: np.ndarray) -> str:
    names = [signal.sensors.names[i] for i in np.flatnonzero(bad)]
    return f"; bad: {', '.join(names)}" if names else ""


def _shafts(signal: Signal, own: np.ndarray, step: str) -> dict[str, dict[int, int]]:
    """Shaft -> contact number -> channel index."""
    names = [signal.sensors.names[i] for i in own]
    try:
        found = shafts_of(names)
    except ValueError as error:
        raise ValueError(f"{signal.recording.id}: {step}: {error}") from error
    if not found:
        raise ValueError(
            f"{signal.recording.id}: {step}: no shaft can be read from the names {listed(names)}; "
            "expected letters and a number, such as A'3 or LTG-12. Set names with `rename` in the "
            "card's reader."
        )
    return {
        shaft: {number: int(own[i]) for number, i in members.items()}
        for shaft, members in found.items()
    }


def _width(
    signal: Signal, shaft: str, members: Mapping[int, int], columns: Mapping[str, int] | None
) -> int | None:
    """Contacts in a row of a grid; None for a shaft or strip."""
    width = (columns or {}).get(shaft)
    if width is None and len(members) > LONGEST_STRIP:
        raise ValueError(
            f"{signal.recording.id}: {shaft} has {len(members)} contacts, more than a shaft or "
            f"strip: a grid whose rows a name does not tell. Set columns={{{shaft!r}: 8}}, or "
            "however many contacts its rows have."
        )
    if width is not None and width < 1:
        raise ValueError(f"columns of {shaft}: {width} contacts in a row, expected at least 1.")
    return width


def _beside(number: int, width: int | None) -> list[int]:
    """Numbers next to one: one apart, on a grid within its row and in the rows beside it."""
    if width is None:
        return [number - 1, number + 1]
    row = (number - 1) // width
    beside = [k for k in (number - 1, number + 1) if (k - 1) // width == row]
    return [*beside, number - width, number + width]
