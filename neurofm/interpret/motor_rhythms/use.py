"""What a method says of motor rhythms: a table of places and rhythms, and one answer.

Axes: sample place rhythm; a sample is a window, a latent or a generated signal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurofm import stats
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Sides = tuple[tuple[str, ...], tuple[str, ...]]
PLACES: dict[str, Sides] = {
    "motor": (("FC3", "C5", "C3", "C1", "CP3"), ("FC4", "C6", "C4", "C2", "CP4")),
    "frontal": (("F5", "F3", "F1", "FC5", "FC1"), ("F6", "F4", "F2", "FC6", "FC2")),
    "posterior": (
        ("CP5", "CP1", "P5", "P3", "P1", "PO3", "O1"),
        ("CP6", "CP2", "P6", "P4", "P2", "PO4", "O2"),
    ),
}
_NAMES = (
    "F5 F3 F1 Fz F2 F4 F6 FC5 FC3 FC1 FCz FC2 FC4 FC6 C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 "
    "CP6 P5 P3 P1 Pz P2 P4 P6 PO3 POz PO4 O1 Oz O2"
)
CHANNELS = tuple(_NAMES.split())  # those of PLACES, and the midline between
RHYTHMS = {"4-8 Hz": (4.0, 8.0), "mu/beta": (8.0, 30.0), "30-40 Hz": (30.0, 40.0)}
ASKED = ("motor", "mu/beta")


@dataclass(frozen=True)
class Finding:
    """What one method answers.

    Args:
        method: Its name.
        value: Of motor x mu/beta, in `unit`; above 0 as the rhythm opposite to the hand demands.
        low: Lower end of the 95 % interval over what is counted by `n`; NaN for fewer than three.
        high: Upper end.
        rival: The largest magnitude of any other place and rhythm.
        rival_name: Which that is.
        share: The value as a share of the magnitudes of all cells together, -1 to 1.
        n: Replicates, such as people.
        replicate: What they are.
    """

    method: str
    value: float
    low: float
    high: float
    rival: float
    rival_name: str
    share: float
    n: int
    replicate: str
    unit: str

    @property
    def verdict(self) -> str:
        """ "yes" if the whole interval is above the rival, "no" if below it or below 0."""
        if self.low > self.rival:
            return "yes"
        return "no" if self.high < self.rival or self.high <= 0 else "unclear"

    def __str__(self) -> str:
        return (
            f"{self.method:24} {self.verdict:7} {self.value:+.3g} {self.unit} ({self.low:+.3g} to "
            f"{self.high:+.3g} over {self.n} {self.replicate}), strongest other {self.rival:.3g} "
            f"({self.rival_name}), share {self.share:+.0%}"
        )


@dataclass(frozen=True)
class RhythmUse:
    """How much a rhythm at a place speaks for the hand on its own side, by one method.

    Args:
        method: Its name.
        values: In `unit`.
        places: Along their axis.
        rhythms: Along theirs.
        group: Of each sample: samples of one group (person) are averaged first; None if samples
            are the replicates themselves.
        replicate: What is counted, in the plural.
    """

    method: str
    values: Float[np.ndarray, "sample place rhythm"]
    places: tuple[str, ...]
    rhythms: tuple[str, ...]
    unit: str
    group: np.ndarray | None = None
    replicate: str = "people"

    @property
    def by_group(self) -> Float[np.ndarray, "group place rhythm"]:
        """Mean of each replicate."""
        if self.group is None:
            return self.values
        group = np.asarray(self.group)
        return np.stack([self.values[group == one].mean(0) for one in np.unique(group)])

    def finding(self, asked: tuple[str, str] = ASKED) -> Finding:
        """The answer for one place and rhythm, all others being its controls."""
        for name, known in zip(asked, (self.places, self.rhythms), strict=True):
            if name not in known:
                raise ValueError(f"RhythmUse: {name!r} is not one of {known}.")
        at = self.places.index(asked[0]), self.rhythms.index(asked[1])
        each = self.by_group
        table = each.mean(0)
        size = np.abs(table)
        total = float(size.sum())
        size[at] = -1.0
        place, rhythm = np.unravel_index(int(size.argmax()), size.shape)
        low, high = stats.bootstrap_interval(each[:, at[0], at[1]])
        return Finding(
            method=self.method,
            value=float(table[at]),
            low=low,
            high=high,
            rival=float(size[place, rhythm]),
            rival_name=f"{self.places[place]}, {self.rhythms[rhythm]}",
            share=float(table[at]) / total if total > 0 else 0.0,
            n=len(each),
            replicate=self.replicate,
            unit=self.unit,
        )

    def plot(self) -> Figure:
        """Mean over replicates, place by rhythm."""
        from neurofm.figures import plot_matrix

        return plot_matrix(
            self.by_group.mean(0),
            title=f"{self.method}, {len(self.by_group)} {self.replicate}",
            unit=f"for the same side ({self.unit})",
            rows=self.places,
            columns=self.rhythms,
            signed=True,
            square=False,
        )


def sides(names: Sequence[str], places: Mapping[str, Sides] = PLACES) -> list[list[list[int]]]:
    """Indices of the channels of each place, left and right.

    Raises:
        ValueError: A place has no channel on one side.
    """
    found = [[[names.index(c) for c in side if c in names] for side in places[p]] for p in places]
    for place, (left, right) in zip(places, found, strict=True):
        if not left or len(left) != len(right):
            raise ValueError(
                f"sides: {place!r} has {len(left)} channels on the left and {len(right)} on the "
                f"right among {tuple(names)}; as many on both are needed."
            )
    return found


def agreement(findings: Sequence[Finding]) -> str:
    """Where methods agree, in words: on the verdict, and on the side alone."""
    said = {v: [f.method for f in findings if f.verdict == v] for v in ("yes", "no", "unclear")}
    groups = [f"{', '.join(methods)}: {v}" for v, methods in said.items() if methods]
    if len(said["unclear"]) == len(findings):
        text = "No method gives an answer"
    elif len(groups) == 1:
        text = f"All {len(findings)} methods agree: {next(v for v, m in said.items() if m)}"
    else:
        split = bool(said["yes"]) and bool(said["no"])
        text = f"Methods {'disagree' if split else 'agree in part'}: {'; '.join(groups)}"
    above = sum(f.low > 0 for f in findings)
    return f"{text}. On the side opposite to the hand: {above} of {len(findings)}, surely above 0."


def plot_findings(findings: Sequence[Finding], *, title: str) -> Figure:
    """Share of motor mu/beta in each method's table beside that of the strongest other cell."""
    from neurofm.figures import plot_bars

    bars: dict[str, dict[str, float]] = {"motor, mu/beta": {}, "strongest other": {}}
    ends: dict[str, dict[str, tuple[float, float]]] = {"motor, mu/beta": {}}
    for one in findings:
        scale = one.share / one.value if one.value else 0.0
        bars["motor, mu/beta"][one.method] = one.share
        bars["strongest other"][one.method] = one.rival * scale
        ends["motor, mu/beta"][one.method] = (one.low * scale, one.high * scale)
    return plot_bars(bars, title=title, unit="share of all places and rhythms", intervals=ends)
