"""What every tokenizer has in common, whatever it makes of the signal.

Parametrized over all model cards that name a tokenizer and over small constructions of what has no
card. A tokenizer may know channels apart or mix them, have codes or none, decode or not; what it
has must obey the same rules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurofm import cards, load_tokenizer
from neurofm.batch import Batch, Tokenizer, Tokens
from neurofm.io import save_model
from neurofm.nn import FSQ, CosineQuantizer, ResidualVQ
from neurofm.tasks.token_cache import _window
from neurofm.tokenizers import (
    CodedPatches,
    MIRepNetTokenizer,
    PatchTokenizer,
    QuantileTokenizer,
    SpectralTokenizer,
)
from neurofm.units import Kind

SMALL: dict[str, Callable[[], nn.Module]] = {
    "mirepnet": lambda: MIRepNetTokenizer(8, n_temporal=4, n_spatial=8),
    "patch": lambda: PatchTokenizer(dim=8, patch_s=0.5, sfreq=128.0, spectrum=True),
    "spectral bands": lambda: SpectralTokenizer(kinds=("eeg", "mag")),
    "spectral fitted": lambda: SpectralTokenizer(
        patch_s=0.5, edges=(2.0, 8.0, 40.0), standardize="fitted", hop_s=0.25
    ),
    "quantile": lambda: QuantileTokenizer(4, 16, kinds=("eeg", "mag")),
    "mu-law": lambda: QuantileTokenizer(1, 256, method="mu_law", n_mean=4),
    "uniform": lambda: QuantileTokenizer(2, 32, method="uniform", sfreq=128.0),
    "coded vq": lambda: CodedPatches(
        ResidualVQ(8, num_quantizers=2, codebook_dim=4, codebook_size=16), dim=8, width=16, depth=1
    ),
    "coded fsq": lambda: CodedPatches(FSQ(8, steps=[5, 5]), dim=8, width=16, depth=1, kernel=1),
    "coded cosine": lambda: CodedPatches(
        CosineQuantizer(8, n_codes=16, code_dim=4), dim=8, width=16, depth=1
    ),
}
CARDS = [
    name
    for name in cards.names("models")
    if cards.read("models", name)["class_path"].startswith("neurofm.tokenizers.")
]
NAMES = [*CARDS, *SMALL]


def any_rate(name: str) -> bool:
    """Built for bands in Hz or single samples; all others need theirs."""
    return name.startswith("spectral") or name in ("quantile", "mu-law")


def sample(name: str, n: int = 3) -> Batch:
    """Two seconds of slow noise in microvolts, each channel louder than the one before."""
    expects = cards.read("models", name)["expects"] if name in CARDS else {}
    sfreq = float(expects.get("sfreq", 250 if name == "mirepnet" else 128))
    channels = 45 if name == "mirepnet" else 5
    kind = int(Kind[expects.get("kinds", ["eeg"])[0].upper()])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, channels, round(2 * sfreq), generator=generator)
    x = torch.nn.functional.avg_pool1d(x, 5, 1, 2) * torch.arange(8, 8 + channels).unsqueeze(1)
    there = torch.ones(n, channels, dtype=torch.bool)
    return Batch(
        x=x,
        channel_mask=there,
        kind=torch.full((n, channels), kind),
        position=0.05 * torch.randn(n, channels, 3, generator=generator),
        orientation=torch.zeros(n, channels, 3),
        has_position=there,
        sfreq=sfreq,
        onset=torch.arange(float(n), dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.long),
        recording=torch.zeros(n, dtype=torch.long),
    )


def padded(batch: Batch) -> Batch:
    """Two more channels that are padding, with what padding should never matter by: NaN."""

    def more(value: Tensor, fill: float = 0) -> Tensor:
        return torch.cat([value, value.new_full((len(value), 2, *value.shape[2:]), fill)], 1)

    names = ("channel_mask", "position", "orientation", "has_position")
    changed = {name: more(getattr(batch, name)) for name in names}
    x, kind = more(batch.x, float("nan")), more(batch.kind, int(Kind.PAD))
    return replace(batch, **changed, x=x, kind=kind)


@functools.cache
def started(name: str) -> Any:
    """In evaluation mode; code book, scales and edges have started from the first batch."""
    torch.manual_seed(0)
    found: Any = SMALL[name]() if name in SMALL else load_tokenizer(name)
    found.eval()
    with torch.no_grad():
        found(sample(name))
    return found


def tokens_of(name: str, batch: Batch) -> Tokens:
    with torch.no_grad():
        return started(name)(batch)


def test_every_card_of_a_tokenizer_is_here() -> None:
    named = {name for name in cards.names("models") if "tokenizer" in name or "coded" in name}
    assert named <= set(CARDS)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_have_the_declared_shapes_types_and_ranges(name: str) -> None:
    tokenizer, batch = started(name), sample(name)
    assert isinstance(tokenizer, Tokenizer)
    found = tokens_of(name, batch)
    n, count, dim = found.values.shape
    assert (n, dim) == (len(batch), tokenizer.dim) and count > 0
    assert found.values.dtype == torch.float32 and bool(found.values.isfinite().all())
    assert found.mask.dtype == torch.bool and bool(found.mask.all())
    assert found.channel.dtype == torch.int64 and found.time.dtype == torch.float32
    assert found.mask.shape == found.channel.shape == found.time.shape == (n, count)
    assert int(found.channel.min()) >= -1
    assert float(found.time.min()) >= 0
    assert float(found.time.max()) <= batch.x.shape[-1] / batch.sfreq
    assert (found.codes is None) == (tokenizer.n_codes == 0)
    if found.codes is not None:
        assert found.codes.shape == (n, count, tokenizer.n_levels)
        assert found.codes.dtype == torch.int64
        assert int(found.codes.min()) >= 0 and int(found.codes.max()) < tokenizer.n_codes


@pytest.mark.parametrize("name", NAMES)
def test_time_rises_within_a_channel(name: str) -> None:
    found = tokens_of(name, sample(name))
    for channel in found.channel[0].unique():
        time = found.time[0, found.channel[0] == channel]
        assert bool((time.diff() > 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_padding_gives_no_token_and_changes_none(name: str) -> None:
    batch = sample(name)
    plain, more = tokens_of(name, batch), tokens_of(name, padded(batch))
    assert bool((more.channel[more.mask] < batch.x.shape[1]).all()) or name.startswith("brain")
    for field in ("values", "time", "channel"):
        whole = getattr(plain, field)
        kept = getattr(more, field)[more.mask].view_as(whole)
        torch.testing.assert_close(kept, whole, rtol=1e-3, atol=1e-3)
    # An untrained BrainTokenizer's latents, and so its codes, are all nearly alike.
    alike = name.startswith("braintokenizer")
    if plain.codes is not None and more.codes is not None and not alike:
        # Finer levels of a code book that has just started quantize residuals of nearly zero.
        coarse = more.codes[more.mask][:, 0].view_as(plain.codes[..., 0])
        assert float((coarse == plain.codes[..., 0]).float().mean()) > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_a_window_are_the_same_alone_and_again(name: str) -> None:
    batch = sample(name)
    whole, again = tokens_of(name, batch), tokens_of(name, batch)
    torch.testing.assert_close(again.values, whole.values, rtol=0, atol=0)
    alone = tokens_of(name, _window(batch, 1))
    torch.testing.assert_close(alone.values, whole.values[1:2], rtol=1e-4, atol=1e-4)
    if whole.codes is not None and alone.codes is not None:
        same = alone.codes[..., 0] == whole.codes[1:2, :, 0]
        assert float(same.float().mean()) > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_reconstruction_has_the_shape_of_the_signal(name: str) -> None:
    tokenizer, batch = started(name), padded(sample(name))
    if hasattr(tokenizer, "decode"):
        with torch.no_grad():
            signal = tokenizer.decode(tokenizer(batch), batch)
        assert signal.shape[:2] == batch.x.shape[:2] and bool(signal.isfinite().all())
        assert batch.x.shape[-1] * 0.75 <= signal.shape[-1] <= batch.x.shape[-1]
        assert not bool(signal[~batch.channel_mask].any())
        with pytest.raises(ValueError, match="no codes"):
            tokenizer.decode(replace(tokenizer(batch), codes=None), batch)
    assert hasattr(tokenizer, "reconstruct") == (tokenizer.n_codes > 0)
    if hasattr(tokenizer, "reconstruct"):
        with torch.no_grad():
            x, made = tokenizer.reconstruct(batch)
        assert x.shape == made.shape and x.shape[0] == len(batch)
        real = batch.channel_mask[:, : x.shape[1]]
        assert bool(x[real].isfinite().all()) and float(x[real].std()) > 0
        assert not bool(x[~real].any())


def test_a_tokenizer_that_learns_has_a_loss_with_gradients() -> None:
    trained = [name for name in NAMES if hasattr(started(name), "loss")]
    assert set(CARDS) <= {*trained, "patch_transformer"}
    for name in trained:
        torch.manual_seed(0)
        tokenizer: Any = SMALL[name]() if name in SMALL else load_tokenizer(name)
        losses = tokenizer.train().loss(padded(sample(name)))
        assert losses["loss"].ndim == 0 and bool(losses["loss"].isfinite())
        assert ("codes" in losses) == (tokenizer.n_codes > 0), name
        assert all(value.ndim == 0 for key, value in losses.items() if key != "codes"), name
        if "codes" in losses:
            assert losses["codes"].shape[-1] == tokenizer.n_levels
            assert int(losses["codes"].max()) < tokenizer.n_codes
        if list(tokenizer.parameters()):
            losses["loss"].backward()
            moved = [p for p in tokenizer.parameters() if p.grad is not None and p.grad.any()]
            assert moved, name
            assert all(bool(p.grad.isfinite().all()) for p in moved), name


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("tfm_tokenizer",)])
def test_a_file_gives_the_same_tokens(name: str, tmp_path: Path) -> None:
    loaded = load_tokenizer(save_model(started(name), tmp_path / "tokenizer.safetensors"))
    with torch.no_grad():
        found = loaded(sample(name))  # type: ignore[operator]
    torch.testing.assert_close(found.values, tokens_of(name, sample(name)).values, rtol=0, atol=0)


def spoiled(batch: Batch, how: str) -> Batch:
    x, mask = batch.x.clone(), batch.channel_mask.clone()
    if how == "rate":
        return replace(batch, sfreq=1.3 * batch.sfreq)
    if how == "kind":
        return replace(batch, kind=torch.full_like(batch.kind, int(Kind.ECG)))
    if how == "value":
        x[1, 2, 3] = float("nan")
    if how == "channel":
        mask[1] = False
    if how == "unit":
        return replace(batch, unit="volt")
    return replace(batch, x=x, channel_mask=mask)


@pytest.mark.parametrize(
    ("how", "remedy"),
    [
        ("rate", "Resample"),
        ("kind", "PickKinds"),
        ("value", "NaN or infinite.*Interpolate"),
        ("channel", "channel"),
        ("unit", "unit 'volt'"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_it_cannot_take_is_refused_with_a_remedy(name: str, how: str, remedy: str) -> None:
    batch = spoiled(sample(name), how)
    if (how == "rate" and any_rate(name)) or (how == "kind" and name == "patch"):
        assert bool(tokens_of(name, batch).values.isfinite().all())
        return
    with pytest.raises(ValueError, match=remedy):
        tokens_of(name, batch)


@pytest.mark.parametrize("name", NAMES)
def test_a_window_shorter_than_a_token_is_refused(name: str) -> None:
    batch = sample(name)
    short = replace(batch, x=batch.x[..., :3])
    if name in ("quantile", "uniform", "quantile_tokenizer"):  # a token is a sample
        assert tokens_of(name, short).values.shape[1] == 3 * batch.x.shape[1]
        return
    if name.startswith(("braintokenizer", "ephys")):  # zeros follow; a short window of its own
        assert bool(tokens_of(name, short).values.isfinite().all())
        return
    with pytest.raises(ValueError, match="window"):
        tokens_of(name, short)
