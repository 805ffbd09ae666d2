"""Does a network that tells hands apart use the mu and beta rhythms opposite to the hand?

When a hand is moved or imagined, mu and beta weaken over the hemisphere opposite to it. A network
that uses this takes a rhythm over the right hemisphere as a sign of the right hand, since the left
hand would have weakened it, and likewise on the left. Different methods are brought to the same
table: for each place and rhythm, how much what is there speaks for the hand on its own side. The
question is then asked of one cell, motor x mu/beta, and the strongest other cell is its control.

Source: Pfurtscheller & Lopes da Silva 1999 (desynchronisation opposite to the hand).
Axes: sample place rhythm; a sample is a window, a latent or a generated signal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from neurofm import stats
from neurofm.batch import Batch
from neurofm.interpret.attribution.aggregation import by_band
from neurofm.interpret.attribution.evidence import Attribution, Function, with_inputs
from neurofm.interpret.bands import band_power, remove_band
from neurofm.interpret.causal.runs import Edit, Metric, Run, array_of, each_run, values_at
from neurofm.interpret.decomposition.feature_cards import FeatureCard
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


def attributed_rhythms(
    attribution: Attribution,
    batch: Batch,
    *,
    places: Mapping[str, Sides] = PLACES,
    rhythms: Mapping[str, tuple[float, float]] = RHYTHMS,
) -> RhythmUse:
    """An attribution of the logit of the right hand minus that of the left one.

    Args:
        attribution: A product with the input, such as integrated gradients from a baseline of 0.
        batch: The windows that were explained, with names and subjects.
    """
    share = by_band(attribution, batch, bands=rhythms).over("time").values
    values = share[..., : len(rhythms)].detach().cpu().double().numpy()
    tables = [
        values[:, right].sum(1) - values[:, left].sum(1)
        for left, right in sides(_names(batch), places)
    ]
    return RhythmUse(
        attribution.method,
        np.stack(tables, 1),
        tuple(places),
        tuple(rhythms),
        "logit",
        batch.subject.cpu().numpy(),
    )


@torch.no_grad()
def lesioned_rhythms(
    push: Function,
    batch: Batch,
    *,
    places: Mapping[str, Sides] = PLACES,
    rhythms: Mapping[str, tuple[float, float]] = RHYTHMS,
) -> RhythmUse:
    """A rhythm is taken out of one hemisphere's part of a place, then of the other's.

    Args:
        push: From windows to the logit of the right hand minus that of the left one.
    """
    x = batch.x
    table = np.empty((len(batch), len(places), len(rhythms)))
    for k, (low, high) in enumerate(rhythms.values()):
        rest = remove_band(x, batch.sfreq, low, high)
        for j, pair in enumerate(sides(_names(batch), places)):
            said = []
            for side in pair:
                changed = x.clone()
                changed[:, side] = rest[:, side]
                said.append(array_of(push(with_inputs(batch, changed))))
            table[:, j, k] = said[0] - said[1]  # without the left minus without the right
    return RhythmUse(
        "lesions",
        table,
        tuple(places),
        tuple(rhythms),
        "logit",
        batch.subject.cpu().numpy(),
    )


def exchanged_rhythms(
    model: nn.Module,
    clean: Batch,
    corrupt: Batch,
    *,
    site: str,
    metric: Metric,
    run: Run | None = None,
    places: Mapping[str, Sides] = PLACES,
    rhythms: Mapping[str, tuple[float, float]] = RHYTHMS,
) -> RhythmUse:
    """A rhythm of a place, both hemispheres, is put from a trial of one hand into one of the other.

    Activation patching of parts of the signal (denoising): what is given back is what the network
    reads from the difference between trials there, as it is in the recording.

    Args:
        clean: Trials of one hand.
        corrupt: As many of the other.
        site: Where the signal enters the layers, `batch channel time`, such as `layers:input`.
        metric: Larger for the hand of the clean trial, such as `logit_difference`.
    """
    where = sides(_names(clean), places)
    edits = [
        Edit(site, _rhythm_of(pair[0] + pair[1], clean.sfreq, *edges), f"{place}, {rhythm}")
        for place, pair in zip(places, where, strict=True)
        for rhythm, edges in rhythms.items()
    ]
    _, values = values_at(model, clean, [site], run=run)
    before, _ = values_at(model, corrupt, [], run=run)
    outs = each_run(model, corrupt, edits, values, run=run)
    moved = np.stack([array_of(metric(out) - metric(before)) for out in outs], 1)
    return RhythmUse(
        "patching",
        moved.reshape(len(clean), len(places), len(rhythms)),
        tuple(places),
        tuple(rhythms),
        "logit",
        clean.subject.cpu().numpy(),
    )


def _rhythm_of(channels: list[int], sfreq: float, low: float, high: float) -> Any:
    def change(value: Tensor, other: Tensor) -> Tensor:
        new = value.clone()
        gap = other[:, channels] - value[:, channels]
        new[:, channels] += gap - remove_band(gap, sfreq, low, high)
        return new

    return change


def latent_rhythms(
    cards: Sequence[FeatureCard],
    effects: Float[np.ndarray, " latent"],
    batch: Batch,
    *,
    places: Mapping[str, Sides] = PLACES,
    rhythms: Mapping[str, tuple[float, float]] = RHYTHMS,
) -> RhythmUse:
    """Do latents that answer to a rhythm on one side speak for the hand on that side?

    Per latent, the power of its segments (right minus left, dB against the same people's rest)
    times how far it moves the answer to the right hand. Both are in standard deviations over
    latents, so that their mean is a correlation.

    Args:
        effects: Right minus left logit with each latent, minus that without it, in the order of
            the cards.
        batch: The windows of the cards.
    """
    if len(cards) != len(effects) or len(cards) < 3:
        raise ValueError(f"latent_rhythms: {len(cards)} cards, {len(effects)} effects; 3 or more.")
    x, sfreq = batch.x.double().numpy(), batch.sfreq
    n = round(cards[0].segment_s * sfreq)
    subject = batch.subject.numpy()
    pieces = x[..., : x.shape[-1] // n * n].reshape(*x.shape[:2], -1, n).transpose(0, 2, 1, 3)
    rest = {
        int(s): np.mean(_power(pieces[subject == s].reshape(-1, x.shape[1], n), sfreq, rhythms), 0)
        for s in np.unique(subject)
    }
    ratio = []
    for card in cards:
        starts = [min(round(s.start_s * sfreq), x.shape[-1] - n) for s in card.segments]
        cut = [x[s.window, :, i : i + n] for s, i in zip(card.segments, starts, strict=True)]
        usual = np.mean([rest[s.subject] for s in card.segments], 0)
        ratio.append(10 * np.log10(_power(np.stack(cut), sfreq, rhythms).mean(0) / usual))
    table = _lateral(np.stack(ratio), _names(batch), places)
    products = _standard(table) * _standard(np.asarray(effects, dtype=float))[:, None, None]
    return RhythmUse(
        "latents",
        products,
        tuple(places),
        tuple(rhythms),
        "correlation",
        replicate="latents",
    )


def generated_rhythms(
    left: Float[np.ndarray, "sample channel time"] | Tensor,
    right: Float[np.ndarray, "sample channel time"] | Tensor,
    sfreq: float | int,
    names: Sequence[str],
    *,
    places: Mapping[str, Sides] = PLACES,
    rhythms: Mapping[str, tuple[float, float]] = RHYTHMS,
) -> RhythmUse:
    """Signals that were made to look like one hand, and as many for the other, to the network.

    Half the difference of what lies right minus left, dB; signals are pairs, such as from the same
    start.
    """
    found = []
    for made in (right, left):
        power = 10 * np.log10(_power(np.asarray(made, dtype=float), float(sfreq), rhythms))
        found.append(_lateral(power, names, places))
    return RhythmUse(
        "maximisation",
        (found[0] - found[1]) / 2,
        tuple(places),
        tuple(rhythms),
        "dB",
        replicate="signals",
    )


def _names(batch: Batch) -> tuple[str, ...]:
    if batch.names is None:
        raise ValueError("motor_rhythms: the batch does not name its channels.")
    return batch.names


def _power(
    x: np.ndarray, sfreq: float, rhythms: Mapping[str, tuple[float, float]]
) -> Float[np.ndarray, "window channel band"]:
    return 10 ** (band_power(x, sfreq, rhythms) / 10)


def _lateral(
    values: Float[np.ndarray, "sample channel band"],
    names: Sequence[str],
    places: Mapping[str, Sides],
) -> Float[np.ndarray, "sample place band"]:
    pairs = sides(names, places)
    return np.stack([values[:, r].mean(1) - values[:, left].mean(1) for left, r in pairs], 1)


def _standard(x: np.ndarray) -> np.ndarray:
    spread = x.std(0)
    return np.divide(x - x.mean(0), spread, out=np.zeros_like(x), where=spread > 0)


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
