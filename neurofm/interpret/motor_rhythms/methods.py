"""Five methods brought to the same table of places and rhythms.

Axes: sample place rhythm; a sample is a window, a latent or a generated signal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.batch import Batch
from neurofm.interpret.attribution.aggregation import by_band
from neurofm.interpret.attribution.evidence import Attribution, Function, with_inputs
from neurofm.interpret.bands import band_power, remove_band
from neurofm.interpret.causal.runs import Edit, Metric, Run, array_of, each_run, values_at
from neurofm.interpret.decomposition.feature_cards import FeatureCard
from neurofm.interpret.motor_rhythms.use import PLACES, RHYTHMS, RhythmUse, Sides, sides
from neurofm.shapes import Float


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
