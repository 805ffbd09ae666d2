"""A small sparse dictionary of one site of a run, and what its latents do.

Axes: window place unit; latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.cli.explain.explaining import function_of
from neurofm.cli.explain.inside import Inside, Place, passing
from neurofm.interpret.causal import gradients_at, logit_difference
from neurofm.interpret.decomposition import (
    FeatureCard,
    LatentEffects,
    LossRecovered,
    Quality,
    SparseAutoencoder,
    feature_cards,
    judge_autoencoder,
    latent_effects,
    loss_recovered,
    matched,
    splice,
    train_autoencoder,
)


class Dictionary(SparseAutoencoder):
    """A sparse autoencoder of filters: units are the second axis of what it is given."""

    def encode(self, x: Tensor, *, gradient: Tensor | None = None) -> Tensor:
        """Latents, in the last axis."""
        return super().encode(x.movedim(1, -1), gradient=gradient)

    def decode(self, latents: Tensor) -> Tensor:
        """Filters in the second axis again."""
        return super().decode(latents).movedim(-1, 1)


SMALL = 0.01  # logit


@dataclass(frozen=True)
class Sparse:
    """A dictionary of the last site.

    Args:
        site: Where.
        quality: On held-out windows, intervals over people.
        recovered: Of the divergence from the whole network's own decision, nats.
        effects: On the margin of the class the network chooses, for latents with the largest
            first-order effect, beside as many that speak as strongly.
        cards: Of the latents that do most.
        n: Training samples, dimensions, latents, and k.
    """

    site: str
    quality: Quality
    recovered: LossRecovered
    effects: LatentEffects
    cards: tuple[FeatureCard, ...]
    n: tuple[int, int, int, int]

    @property
    def telling(self) -> list[int]:
        """Positions in `effects` that do more than most controls, and surely something."""
        effects = self.effects
        ends = [effects.interval(i) for i in range(len(effects.latents))]
        size = np.abs(effects.effects.mean(1))
        return [
            i
            for i, (low, high) in enumerate(ends)
            if size[i] > SMALL and effects.rank[i] <= 0.1 and not low <= 0 <= high
        ]

    @property
    def explains(self) -> bool:
        """Whether the dictionary keeps most of the decision, and a latent does more than others."""
        return self.recovered.from_mean > 0.5 and bool(self.telling)


def sparse(inside: Inside, *, steps: int = 600, n_cards: int = 3) -> Sparse:
    """Train a small dictionary on training windows, and judge it on held-out ones.

    Raises:
        ValueError: The site is constant or changes no decision, or fewer than two latents speak.
    """
    held, place, decoder = inside.held, inside.deciding(), inside.decoder
    train = held.balanced(held.split.train, 4 * len(held.chosen), inside.seed)
    centre = _mean(inside, place, train)
    samples = torch.cat(
        [_tokens(inside, place, batch, centre)[0] for batch, _ in held.batches(train)]
    )
    dim, k = samples.shape[1], int(np.clip(samples.shape[1] // 8, 2, 16))
    kind = Dictionary if place.axis == 1 else SparseAutoencoder
    net = kind(dim, 4 * dim, k=k, seed=inside.seed)
    # The library's rate is for long trainings.
    train_autoencoder(net, samples, steps=steps, batch_size=512, lr=3e-3, seed=inside.seed)
    people = list(dict.fromkeys(held.subjects().tolist()))
    by_person = [[i for i in held.chosen if held.rows[i].subject == p] for p in people]
    run = function_of(decoder)
    given = [held.windows.batch(part) for part in by_person]
    with torch.no_grad():
        batches = [(batch, run(batch).double().log_softmax(1)) for batch in given]
    rows = [_tokens(inside, place, batch, centre) for batch, _ in batches]
    groups = np.concatenate([np.full(len(x), i) for i, (x, _) in enumerate(rows)])
    known = np.concatenate([np.tile(np.arange(p), len(x) // p) for x, p in rows])
    quality = judge_autoencoder(net, torch.cat([x for x, _ in rows]), groups=groups, known=known)

    def loss(pair: tuple[Any, Tensor]) -> Tensor:
        said = run(pair[0]).double().log_softmax(1)
        return F.kl_div(said, pair[1], reduction="batchmean", log_target=True)

    def margin(pair: tuple[Any, Tensor]) -> Tensor:
        return logit_difference(pair[1].argmax(1))(run(pair[0])).mean()

    recovered = loss_recovered(
        decoder, place.name, splice(place.name, net, centre=centre), loss, batches
    )
    if np.isnan(recovered.recovered):
        raise ValueError(
            f"sparse: zeros at {place.label} change no decision, so its latents explain nothing."
        )
    latents, order = _ordered(inside, place, net, batches, centre)
    size = latents.mean(0)
    spoken = int((size > 0).sum())
    if spoken < 2:
        raise ValueError(f"sparse: {spoken} of {net.n_latents} latents speak at {place.label}.")
    n = min(8, spoken // 2)
    chosen = [int(i) for i in order if size[i] > 0][:n]
    effects = latent_effects(
        decoder,
        place.name,
        net,
        margin,
        batches,
        chosen,
        controls=matched(size, chosen, 1, generator=np.random.default_rng(inside.seed)),
        centre=centre,
    )
    top = np.argsort(-np.abs(effects.effects.mean(1)), kind="stable")[:n_cards]
    return Sparse(
        site=place.label,
        quality=quality,
        recovered=recovered,
        effects=effects,
        cards=_cards(inside, by_person, latents, [chosen[i] for i in top]),
        n=(len(samples), dim, net.n_latents, k),
    )


def _mean(inside: Inside, place: Place, members: list[int]) -> Tensor:
    """Of every place of a site over training windows: what the dictionary need not know.

    Raises:
        ValueError: Windows have different places.
    """
    total: Any = 0
    for batch, _ in inside.held.batches(members):
        (value, _), *_ = passing(inside.decoder, batch, [place.name])[place.name]
        folded = value.reshape(len(batch), -1, *value.shape[1:]).double().sum(0)
        if isinstance(total, Tensor) and total.shape != folded.shape:
            raise ValueError("sparse: windows have different numbers of channels or tokens.")
        total = total + folded
    mean = (total / len(members)).float()
    if len(mean) > 1:  # channels folded into windows: one mean for all of them
        mean = mean.mean(0, keepdim=True)
    return mean[0]


def _tokens(inside: Inside, place: Place, batch: Any, centre: Tensor) -> tuple[Tensor, int]:
    """Samples of a site, and how many there are per window."""
    (value, _), *_ = passing(inside.decoder, batch, [place.name])[place.name]
    rows = (value - centre).movedim(place.axis, -1).flatten(0, -2).float()
    return rows, len(rows) // len(batch)


def _ordered(
    inside: Inside,
    place: Place,
    net: SparseAutoencoder,
    batches: Sequence[tuple[Any, Tensor]],
    centre: Tensor,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean latents of every window; latents by first-order effect on the chosen margin."""
    run, means, effect = function_of(inside.decoder), [], torch.zeros(net.n_latents)
    for batch, said in batches:
        _, values, slopes = gradients_at(
            inside.decoder, batch, [place.name], logit_difference(said.argmax(1)), run=run
        )
        value, slope = values[place.name][-1], slopes[place.name][-1].movedim(place.axis, -1)
        with torch.no_grad():
            z = net.encode(value - centre).flatten(0, -2)
            push = slope.flatten(0, -2) @ net.decoder.T / net.scale
            effect += (z * push).sum(0)
            means.append(z.reshape(len(batch), -1, net.n_latents).mean(1).double().numpy())
    return np.concatenate(means), np.argsort(-effect.abs().numpy(), kind="stable")


def _cards(
    inside: Inside, by_person: list[list[int]], latents: np.ndarray, which: list[int]
) -> tuple[FeatureCard, ...]:
    held = inside.held
    members = [i for part in by_person for i in part]
    batch = held.windows.batch(members)
    if not batch.has_signal or not which:
        return ()
    batch = replace(batch, y=held.classes(members))
    length = batch.x.shape[-1] / batch.sfreq
    segment = min(1.0, length)
    # The strongest windows, cut into seconds: where tokens lie in time is the model's own matter.
    times = (np.arange(int(length / segment)) + 0.5) * segment
    z = np.repeat(latents[:, None], len(times), axis=1)
    found = feature_cards(
        z,
        batch,
        times,
        which=which,
        labels=held.labels,
        n_segments=12 * len(times),
        segment_s=segment,
    )
    return tuple(found)
