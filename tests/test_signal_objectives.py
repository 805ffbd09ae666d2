"""Masked signal, codes, next codes and contrast: each finds what was planted in the windows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from noise_batches import batch_of, generator, noise
from torch import Tensor, nn

from neurofm.batch import Batch, Objective
from neurofm.models import PatchTransformer
from neurofm.nn import FSQ
from neurofm.objectives import Contrastive, MaskedCodes, MaskedSignal, NextCodes
from neurofm.tokenizers import CodedPatches, PatchTokenizer


def fields(n: int, seed: int, *, channels: int = 6, seconds: int = 2) -> Batch:
    """One source seen by all channels with a fixed weight each, and a little noise of their own.

    A rhythm of 8 Hz that is strong in some windows and weak in others lies over white noise.
    """
    draws, time = generator(seed), torch.arange(64 * seconds) / 64
    phase = 6.3 * torch.rand(n, 1, 1, generator=draws)
    strong = torch.randint(2, (n, 1, 1), generator=draws)
    rhythm = (0.3 + 3 * strong) * torch.sin(2 * math.pi * 8 * time + phase)
    source = rhythm + torch.randn(n, 1, 64 * seconds, generator=draws)
    weight = torch.linspace(0.5, 1.5, channels).unsqueeze(1)
    own = 0.1 * torch.randn(n, channels, 64 * seconds, generator=draws)
    return batch_of(10 * (weight * source + own))


def model_of(tokenizer: nn.Module | None = None, **options: Any) -> PatchTransformer:
    torch.manual_seed(0)
    made: Any = tokenizer or PatchTokenizer(dim=32, patch_s=0.25, sfreq=64.0, spectrum=True)
    options = {"dim": 32, "depth": 2, "heads": 4, "attention": "criss_cross"} | options
    return PatchTransformer(made, **options)


def train(
    model: PatchTransformer, objective: nn.Module, steps: int, lr: float, n: int = 8
) -> dict[str, float]:
    """Scores on windows that were not trained on."""
    draws = generator(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, 2 * (1 - step / steps))
        loss = objective(model, fields(n, step), **_random(objective, draws))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = objective(model.eval(), fields(64, 10_000), **_random(objective, draws))
    return {name: float(value) for name, value in found.items()}


def _random(objective: nn.Module, draws: torch.Generator) -> dict[str, Any]:
    return {} if isinstance(objective, NextCodes) else {"generator": draws}


def test_hidden_channels_are_made_from_the_others() -> None:
    model = model_of(mask_scheme="random", mask_ratio=0.5)
    found = train(model, MaskedSignal(), 120, 6e-3)
    assert found["samples_explained"] > 0.5
    assert found["spectrum_explained"] > 0.5
    assert found["loss"] == pytest.approx(found["samples"] + found["spectrum"], rel=1e-5)


def test_strength_of_a_rhythm_is_foreseen_where_its_waves_cannot_be() -> None:
    model = model_of(mask_scheme="time", mask_ratio=0.5)
    found = train(model, MaskedSignal(samples=0.0), 60, 6e-3)
    assert found["spectrum_explained"] > 0.15
    assert "samples" not in found


def coded() -> CodedPatches:
    torch.manual_seed(1)
    tokenizer = CodedPatches(
        FSQ(4, steps=(5, 5)), dim=4, width=16, depth=1, kernel=1, patch_s=0.125, sfreq=64.0
    )
    tokenizer(fields(16, 0))
    return tokenizer


def entropy(codes: Tensor) -> float:
    share = torch.bincount(codes.flatten()) / codes.numel()
    share = share[share > 0]
    return float(-(share * share.log()).sum())


def test_hidden_codes_are_told_from_the_other_channels() -> None:
    model = model_of(coded())
    best_guess = entropy(model.tokenize(fields(64, 10_000)).codes)
    found = train(model, MaskedCodes(), 70, 6e-3)
    assert found["loss"] < 0.7 * best_guess


def test_the_next_code_of_a_rhythm_is_told_from_the_past() -> None:
    """The rhythm turns once in a patch: the next code resembles the last where it is strong."""
    model = model_of(coded(), pretraining="next")
    codes = model.tokenize(fields(64, 10_000)).codes
    found = train(model, NextCodes(), 70, 6e-3)
    assert found["loss"] < 0.93 * entropy(codes)
    assert found["top_5"] > found["top_1"] > 1 / 25


def test_the_other_view_of_a_window_is_recognised() -> None:
    found = train(model_of(pretraining="views"), Contrastive(), 40, 4e-3)
    assert found["chance"] == pytest.approx(1 / 127, rel=1e-3)
    assert found["top_1"] > 5 * found["chance"]


class Given(nn.Module):
    """Views that were decided beforehand."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.first, self.second = first, second

    def views(self, batch: Batch, *, generator: torch.Generator | None = None) -> Any:
        return self.first, self.second


def alike(n: int = 6) -> Given:
    values = nn.functional.normalize(torch.randn(n, 8, generator=generator()), dim=-1)
    return Given(values, values)


def test_views_that_agree_are_always_found() -> None:
    found = Contrastive()(alike(), noise(6))
    assert float(found["top_1"]) == 1
    assert float(found["chance"]) == pytest.approx(1 / 11)


def test_overlapping_windows_of_a_recording_are_no_negatives() -> None:
    batch = noise(6)  # of 3 s, each 10 s after the one before
    close = batch.onset.clone()
    close[1] = close[0] + 2
    with_overlap = Contrastive()(alike(), replace(batch, onset=close))
    expected = (2 / 9 + 4 / 11) / 6  # both windows lack each other's two views
    assert float(with_overlap["chance"]) == pytest.approx(expected)
    apart = replace(batch, onset=close, recording=torch.arange(6))
    assert float(Contrastive()(alike(), apart)["chance"]) == pytest.approx(1 / 11)


@pytest.mark.parametrize("negatives", ["subject", "recording"])
def test_negatives_may_be_those_of_the_same_person_or_recording(negatives: Any) -> None:
    batch = noise(6)
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    batch = replace(batch, subject=groups, recording=groups)
    found = Contrastive(negatives=negatives)(alike(), batch)
    assert float(found["chance"]) == pytest.approx(1 / 5)
    alone = replace(batch, subject=torch.arange(6), recording=torch.arange(6))
    with pytest.warns(UserWarning, match="larger batches"):
        assert float(Contrastive(negatives=negatives)(alike(), alone)["loss"]) == 0


@pytest.mark.parametrize("scheme", ["random", "time", "space", "blocks"])
def test_predicting_the_mean_explains_nothing(scheme: Any) -> None:
    model = model_of(mask_scheme=scheme)
    nn.init.zeros_(model.head.weight)  # type: ignore[arg-type]
    with torch.no_grad():
        found = MaskedSignal()(model, noise(), generator=generator())
    assert float(found["samples_explained"]) == pytest.approx(0, abs=0.02)
    assert float(found["samples"]) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MaskedSignal(samples=0.0, spectrum=0.0), "one above"),
        (lambda: MaskedSignal(samples=-1.0), "none below 0"),
        (lambda: Contrastive(temperature=0.0), "above 0"),
        (lambda: Contrastive(negatives="session"), "'session'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_options_are_refused(make: Any, words: str) -> None:
    with pytest.raises(Exception, match=words):  # TypeCheckError where types are checked
        make()


def test_they_are_objectives() -> None:
    assert isinstance(MaskedSignal(), Objective) and isinstance(Contrastive(), Objective)
