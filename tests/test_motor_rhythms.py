"""Contralateral mu and beta: networks of which it is known what they read, and every method asked.

Axes: window channel time.
"""

import dataclasses

import numpy as np
import pytest
import torch
from noise_batches import batch_of as windows_of
from torch import nn

from neurofm.interpret import causal, remove_band
from neurofm.interpret.attribution import integrated_gradients, saliency
from neurofm.interpret.decomposition import FeatureCard, Segment
from neurofm.interpret.motor_rhythms import (
    CHANNELS,
    PLACES,
    RHYTHMS,
    RhythmUse,
    agreement,
    attributed_rhythms,
    exchanged_rhythms,
    generated_rhythms,
    latent_rhythms,
    lesioned_rhythms,
    plot_findings,
    sides,
)

SFREQ, N = 96.0, 96
N_CHANNELS = len(CHANNELS)
LEFT, RIGHT = range(2)


def rhythm(n, low, high, generator):
    """Noise of unit variance in a band, the same on all channels of a side or not."""
    x = torch.randn(n, N_CHANNELS, N, generator=generator)
    kept = x - remove_band(x, SFREQ, low, high)
    return kept / kept.std()


def batch_of(place="motor", band="mu/beta", n=24):
    """Trials of both hands: the rhythm of a place is weaker opposite to the hand."""
    generator = torch.Generator().manual_seed(0)
    x = sum(rhythm(n, *edges, generator) for edges in RHYTHMS.values())
    y = torch.arange(n) % 2
    part = x - remove_band(x, SFREQ, *RHYTHMS[band])
    left, right = sides(CHANNELS)[list(PLACES).index(place)]
    for hand, opposite in ((0, right), (1, left)):
        trials = (y == hand).nonzero()[:, 0]
        at = (trials[:, None], torch.tensor(opposite)[None])
        x[at] -= 0.6 * part[at]
    names = {"names": tuple(CHANNELS), "subject": torch.arange(n) // 4, "y": y}
    return dataclasses.replace(windows_of(x, SFREQ), **names)


class Reader(nn.Module):
    """Log power of one rhythm at one place: right over left speaks for the right hand."""

    def __init__(self, place="motor", band="mu/beta", sign=1.0):
        super().__init__()
        self.layers = nn.Sequential(nn.Identity())
        self.sides, self.band = sides(CHANNELS)[list(PLACES).index(place)], RHYTHMS[band]
        self.sign = sign

    def forward(self, batch):
        x = self.layers(batch.x)
        power = (x - remove_band(x, SFREQ, *self.band)).square().mean(-1)
        left, right = (power[:, side].mean(1) for side in self.sides)
        push = self.sign * (right - left)
        return torch.stack([-push, push], 1) / 2


def push_of(model):
    return lambda batch: model(batch) @ torch.tensor([-1.0, 1.0])


def by_attribution(model, batch):
    return attributed_rhythms(integrated_gradients(push_of(model), batch, steps=2), batch)


def by_lesions(model, batch):
    return lesioned_rhythms(push_of(model), batch)


def by_patching(model, batch):
    subject = batch.subject.numpy()
    index = causal.other_class(batch.y.numpy(), subject=subject, rng=np.random.default_rng(0))
    metric = causal.logit_difference(batch.y, 1 - batch.y)
    return exchanged_rhythms(
        model, batch, causal.taken(batch, index), site="layers:input", metric=metric
    )


METHODS = [by_attribution, by_lesions, by_patching]


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_uses_the_rhythms_is_found_out(method):
    found = method(Reader(), batch_of()).finding()

    assert found.verdict == "yes" and found.n == 6
    assert found.share > 0.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reads", [("frontal", "4-8 Hz"), ("posterior", "mu/beta")])
def test_a_network_that_uses_something_else_is_not_taken_for_it(method, reads):
    found = method(Reader(*reads), batch_of(*reads)).finding()

    assert found.verdict == "no"
    assert found.rival_name == ", ".join(reads)


@pytest.mark.parametrize("method", [by_attribution, by_lesions])
def test_the_same_side_is_not_taken_for_the_opposite_one(method):
    found = method(Reader(sign=-1.0), batch_of()).finding()

    assert found.verdict == "no" and found.value < 0


def test_generated_signals_are_asked_where_their_power_lies():
    generator = torch.Generator().manual_seed(0)
    made = [rhythm(8, 4.0, 40.0, generator) for _ in range(2)]
    pair = sides(CHANNELS)[0]
    for x, silent in zip(made, (pair[1], pair[0]), strict=True):  # opposite to the hand
        x[:, silent] = remove_band(x[:, silent], SFREQ, 8.0, 30.0) + 0.1 * x[:, silent]

    assert generated_rhythms(*made, SFREQ, CHANNELS).finding().verdict == "yes"
    assert generated_rhythms(*made[::-1], SFREQ, CHANNELS).finding().verdict == "no"


def card(latent, window):
    nothing = np.zeros(3)
    return FeatureCard(
        latent=latent,
        density=0.1,
        segments=tuple(Segment(window, s, s, 0, 0, 1.0) for s in (0.0, 0.5, 1.0)),
        segment_s=1.0,
        frequency=nothing,
        spectrum=nothing,
        background=nothing,
        peak_hz=10.0,
        topography=None,
        position=None,
        names=tuple(CHANNELS),
        classes={},
        specificity=0.0,
        n_subjects=1,
        unit="µV",
    )


def test_latents_are_asked_whether_their_side_is_the_side_they_speak_for():
    batch = dataclasses.replace(batch_of(n=24), subject=torch.zeros(24, dtype=torch.int64))
    cards = [card(i, i) for i in range(24)]  # window i is of hand i % 2
    effects = np.where(batch.y.numpy() == 1, 1.0, -1.0)
    effects += 0.1 * np.random.default_rng(0).normal(size=24)

    assert latent_rhythms(cards, effects, batch).finding().verdict == "yes"
    assert latent_rhythms(cards, -effects, batch).finding().value < 0


def test_verdicts_are_said_plainly():
    sure = RhythmUse("a", np.tile([[9.0, 1.0]], (5, 1, 1)), ("motor",), ("mu/beta", "x"), "logit")
    other = dataclasses.replace(sure, method="b", values=np.tile([[1.0, 9.0]], (5, 1, 1)))
    torn = np.array([[[9.0, 1.0]], [[-9.0, 1.0]], [[5.0, 1.0]], [[-5.0, 1.0]], [[1.0, 1.0]]])
    doubt = dataclasses.replace(sure, method="c", values=torn)
    yes, no, unclear = (one.finding() for one in (sure, other, doubt))

    assert [f.verdict for f in (yes, no, unclear)] == ["yes", "no", "unclear"]
    assert agreement([yes, yes]).startswith("All 2 methods agree: yes. ")
    assert agreement([yes, unclear]).endswith("hand: 1 of 2, surely above 0.")
    assert "disagree" in agreement([yes, no]) and "in part" in agreement([yes, unclear])
    assert agreement([unclear]).startswith("No method gives an answer. ")
    assert "strongest other 9 (motor, x)" in str(no)
    assert plot_findings([yes, no], title="t").axes and sure.plot().axes


def test_what_cannot_be_asked_is_said():
    with pytest.raises(ValueError, match="'motor' has 1 channels on the left and 0"):
        sides(["C3", "Cz"])
    with pytest.raises(ValueError, match="not one of"):
        RhythmUse("a", np.zeros((3, 1, 1)), ("motor",), ("x",), "logit").finding()
    batch = batch_of(n=16)
    with pytest.raises(ValueError, match="not a product"):
        attributed_rhythms(saliency(push_of(Reader()), batch), batch)
    with pytest.raises(ValueError, match="does not name"):
        lesioned_rhythms(push_of(Reader()), dataclasses.replace(batch, names=None))
    with pytest.raises(ValueError, match="3 or more"):
        latent_rhythms([card(0, 0)], np.ones(1), batch)
