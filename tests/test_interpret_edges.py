"""Edge cases of the interpretability layer that no topic's own test holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from noise_batches import batch_of
from torch import Tensor, nn

from neurofm.interpret import attribution, causal, decomposition, rsa, similarity
from neurofm.types import RDM


def test_smooth_masks_are_exact_for_any_width() -> None:
    """Widths whose inverse is not a binary fraction were rounded to single precision."""
    n, step, sigma = 26, 5, 3.0
    cells = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.zeros((2, n))
    for row in range(2):
        for t in range(n):
            around = range(t // step - 2, t // step + 3)
            value = np.array(
                [
                    float(cells[row, q]) * np.exp(-2 * max(0, abs(t - step * q) / sigma - 0.5) ** 2)
                    if 0 <= q < 6
                    else 0.0
                    for q in around
                ]
            )
            expected[row, t] = (value * np.exp(20 * value)).sum() / np.exp(20 * value).sum()
    got = attribution.smooth_mask(cells, n, step=step, sigma=sigma)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


class Pair(nn.Module):
    """Two tokens' outputs in a tuple."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, -x


class Net(nn.Module):
    """Channels as tokens, three classes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(32, 6), nn.Linear(6, 6)
            self.pair, self.head = Pair(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = self.pair(x + torch.relu(self.second(x)))[0]
        return self.head(x.mean(1))


NET = Net()
CLEAN, CORRUPT = torch.randn(2, 4, 3, 32, generator=torch.Generator().manual_seed(0))
HEADS = [f"head:input[head={k}/2]" for k in range(2)]
FIRST = causal.logit_difference(0, 1)


def mean_logit(x: Tensor) -> float:
    return float(NET(x).mean().detach())


METHODS = {
    "saliency": lambda x: attribution.saliency(NET, x),
    "integrated_gradients": lambda x: attribution.integrated_gradients(NET, x, steps=2),
    "occlude": lambda x: attribution.occlude_channels(NET, x),
    "activation_patching": lambda x: causal.activation_patching(NET, x, CORRUPT[: len(x)], HEADS),
    "attribution_patching": lambda x: causal.attribution_patching(
        NET, CLEAN[: len(x)], x, ["first"]
    ),
    "path_patching": lambda x: causal.path_patching(
        NET, x, CORRUPT[: len(x)], "first", ["head:input"], frozen=["second"]
    ),
    "neuron_path": lambda x: causal.neuron_path(NET, x, ["first"]),
    "function_vector": lambda x: causal.function_vector(NET, HEADS, x, CORRUPT, FIRST, n_heads=1),
    "ablation": lambda x: causal.ablation(NET, x, ["first"]),
    "contrast_vector": lambda x: causal.contrast_vector(NET, x, CORRUPT, "first"),
    "lesion_channels": lambda x: causal.lesion_channels(mean_logit, x, {"a": [0]}, n_random=2),
    "lesion_bands": lambda x: causal.lesion_bands(
        mean_logit, x, 64, {"a": (8.0, 12.0)}, n_random=2
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_window_that_is_not_finite_is_named(method: str, value: float) -> None:
    broken = CLEAN.clone()
    broken[2, 1, 5] = value
    with pytest.raises(ValueError, match=r"1 of 4 windows hold NaN or infinite.*first at \[2"):
        METHODS[method](broken)


@pytest.mark.parametrize("method", METHODS)
def test_no_windows_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"no windows|not empty"):
        METHODS[method](CLEAN[:0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attribution.saliency(NET, CLEAN, 9), "targets from 9 to 9; expected 0 to 2"),
        (
            lambda: attribution.integrated_gradients(NET, CLEAN, 0, baseline=CLEAN[:1, :2]),
            r"baseline of shape \(1, 2, 32\)",
        ),
        (lambda: causal.ablation(NET, CLEAN, []), "ablation: no site"),
        (lambda: causal.activation_patching(NET, CLEAN, CLEAN, []), "patching: no site"),
        (lambda: causal.logit_difference(3)(NET(CLEAN)), "class 3 .* from 0 to 2"),
        (lambda: causal.logit_difference(0, -1)(NET(CLEAN)), "class -1 .* from 0 to 2"),
        (lambda: causal.probability(torch.tensor([0, 1]))(NET(CLEAN)), "one per window"),
        (lambda: causal.logit_difference(0)(NET(CLEAN)[:, 0]), "no logits of classes"),
        (
            lambda: causal.activation_patching(NET, CLEAN, CORRUPT[..., :16], ["first"]),
            r"clean windows have shape \(3, 32\), corrupt ones shape \(3, 16\)",
        ),
        (
            lambda: causal.path_patching(NET, CLEAN, CORRUPT, "firts", ["head:input"], frozen=[]),
            "no module 'firts'. Did you mean 'first'",
        ),
        (
            lambda: causal.path_patching(NET, CLEAN, CORRUPT, "first", [], frozen=[]),
            "path_patching: no site",
        ),
        (
            lambda: causal.path_patching(
                NET, CLEAN, CORRUPT, "first", ["head:input"], frozen="second"
            ),
            "is the string 'second'|Sequence",
        ),
        (
            lambda: causal.path_patching(NET, CLEAN, CORRUPT, "pair", ["head:input"], frozen=[]),
            "not one tensor. Select a part, such as 'pair:output.0'",
        ),
        (lambda: causal.neuron_path(NET, CLEAN, []), "neuron_path: no site"),
        (lambda: causal.neuron_path(NET, CLEAN, ["first"], steps=0), "steps is 0"),
        (lambda: causal.neuron_path(NET, CLEAN, ["pair"]), "not one tensor"),
        (
            lambda: causal.function_vector(NET, HEADS[:1] * 2, CLEAN, CORRUPT, FIRST, n_heads=2),
            "2 of 1 heads",
        ),
        (
            lambda: causal.steering(
                NET, CLEAN, {"first": torch.ones(5)}, FIRST, found_on=[CORRUPT]
            ),
            "one entry for each unit",
        ),
        (lambda: causal.lesion_channels(mean_logit, CLEAN, {}), "0 lesions"),
        (lambda: causal.lesion_channels(mean_logit, CLEAN, {"a": ["C3"]}), "indices|Sequence"),
        (
            lambda: causal.lesion_bands(mean_logit, CLEAN, 64, {"a": (12.0, 8.0)}),
            "'a' is 12 to 8 Hz; expected two rising edges up to 32 Hz",
        ),
        (
            lambda: causal.activation_patching(
                NET, CLEAN, CORRUPT, causal.directions("first", torch.eye(7))
            ),
            "directions of 7 units",
        ),
        (
            lambda: attribution.deletion_curve(
                NET,
                CLEAN[:2],
                attribution.saliency(NET, CLEAN),
                generator=torch.Generator().manual_seed(0),
            ),
            r"evidence of \(4, 3\) .* signals of \(2, 3, 32\)",
        ),
        (lambda: similarity.compare_layers({"a": np.zeros((0, 3))}), r"without samples: \['a'\]"),
        # A score of NaN would be "worse than all random lesions".
        (
            lambda: causal.lesion_bands(lambda _: float("nan"), CLEAN, 64, {"a": (8.0, 12.0)}),
            "the score is nan",
        ),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        call()
    assert not isinstance(caught.value, RuntimeError | IndexError)


def test_windows_of_another_rate_are_no_pairs() -> None:
    one, two = (batch_of(CLEAN, sfreq=rate) for rate in (64.0, 128.0))
    with pytest.raises(ValueError, match=r"at 64 Hz, corrupt ones .* at 128 Hz"):
        causal.activation_patching(NET, one, two, ["first"], run=lambda batch: NET(batch.x))


def test_masked_samples_may_be_nan() -> None:
    broken, valid = CLEAN.clone(), torch.ones(CLEAN.shape, dtype=torch.bool)
    broken[1, 0], valid[1, 0] = torch.nan, False
    model = nn.Sequential(nn.Conv1d(3, 2, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    assert attribution.with_mask(model, broken, valid).isfinite().all()


@pytest.mark.parametrize("measure", [similarity.linear_cka, similarity.hsic, similarity.rbf_cka])
def test_alignment_refuses_infinity_and_passes_nan_on(measure: Callable[..., float]) -> None:
    x = np.random.default_rng(0).normal(size=(8, 3))
    y = x.copy()
    y[1, 2] = np.nan
    assert np.isnan(measure(x, y))
    y[1, 2] = np.inf
    with pytest.raises(ValueError, match=r"1 of 8 windows .* first at \[1, 2\]"):
        measure(x, y)


def test_dark_matter_needs_samples_that_vary() -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    same, broken = x[:1].expand(4, 3), x.clone()
    broken[5] = torch.nan
    for train, test, message in (
        (x, same, "do not vary"),
        (broken, x, r"\(train\): 1 of 60"),
        (x, x[:1], "two samples"),
    ):
        with pytest.raises(ValueError, match=message):
            decomposition.dark_matter(nn.Identity(), train, test)


def test_a_model_without_known_pairs_is_named() -> None:
    values = np.random.default_rng(0).random((3, 10))
    values[1] = np.nan
    one, lacking, person = (RDM(v, tuple("abcde"), "euclidean") for v in values)
    with pytest.raises(ValueError, match=r"0 of 10 pairs .* 'lacking' lacks 10"):
        rsa.compare_models(
            {"one": one, "lacking": lacking},
            {"person": person},
            generator=np.random.default_rng(0),
        )


def test_a_model_of_zeros_has_no_weight() -> None:
    rng = np.random.default_rng(0)
    models = np.stack([np.zeros(10), rng.random(10)])
    weights = rsa.fit_weights(models, rng.random((3, 10)))
    assert weights[0] == 0.0 < weights[1]
