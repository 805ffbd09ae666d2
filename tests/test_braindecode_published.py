"""Pretrained networks of braindecode: their cards, at a small size.

Every card is built with one or two layers and short windows, so that all of them take seconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from neurofm import cards
from neurofm.batch import Batch, BrainModel
from neurofm.contract import Contract
from neurofm.interpret import record, sites
from neurofm.models import BraindecodeModel
from neurofm.models.braindecode_networks import match_names, vocabulary
from neurofm.units import Kind

# Card -> (samples of a window, fewer layers, a site inside).
SMALL: dict[str, tuple[int, dict[str, Any], str]] = {
    "labram": (600, {"num_layers": 2}, "network.blocks.0"),
    "cbramod": (600, {"n_layer": 1}, "network.encoder.layers.0"),
    "biot": (600, {"num_layers": 1}, "network.encoder.transformer"),
    "eegpt": (256, {"depth": 1}, "network.target_encoder"),
    "signal_jepa": (512, {"transformer__num_encoder_layers": 1}, "network.feature_encoder"),
    "reve": (560, {"depth": 1}, "network.transformer.layers.0.0"),
    "bendr": (768, {"transformer_layers": 1, "contextualizer_hidden": 64}, "network.encoder"),
    "luna": (320, {"depth": 1}, "network.blocks.0"),
    "codebrain": (600, {"num_res_layers": 1}, "network.norm"),
    "eegdino": (400, {"n_layer": 2}, "network.encoder_layers.0"),
    "steegformer": (64, {"depth": 1}, "network.encoder.0"),
    "zuna": (128, {"n_layers": 1, "dim": 64}, "network.encoder"),
    "mvpformer": (1024, {"n_layers": 1, "segment_len": 512}, "network.blocks.0"),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:A window was not provided"),  # BIOT's rectangular window
    pytest.mark.filterwarnings("ignore:enable_nested_tensor"),
]


def published() -> list[str]:
    return [
        name
        for name in cards.names("models")
        if cards.read("models", name)["class_path"].endswith(".BraindecodeModel")
    ]


def small(name: str, **others: Any) -> BraindecodeModel:
    """The network of a card with fewer layers, same weights every time."""
    arguments = cards.read("models", name)["init_args"]
    n_times, fewer, _ = SMALL[name]
    own = {**(arguments.get("arguments") or {}), **fewer}
    torch.manual_seed(0)
    return BraindecodeModel(**(arguments | {"n_times": n_times, "arguments": own} | others)).eval()


def windows(name: str, n: int = 2) -> Batch:
    """Noise of 20 µV with the channels of a card."""
    card = cards.read("models", name)
    arguments, expects = card["init_args"], card["expects"]
    generator = torch.Generator().manual_seed(1)
    shape = (n, arguments["n_channels"])
    scale = 20.0 if expects["unit"] == "physical" else 1.0
    names = arguments.get("channels")
    return Batch(
        x=scale * torch.randn(*shape, SMALL[name][0], generator=generator),
        channel_mask=torch.ones(shape, dtype=torch.bool),
        kind=torch.full(shape, int(Kind[expects["kinds"][0].upper()])),
        position=0.1 * torch.rand(*shape[1:], 3, generator=generator).expand(n, -1, -1),
        orientation=torch.zeros(*shape, 3),
        has_position=torch.ones(shape, dtype=torch.bool),
        sfreq=float(expects["sfreq"]),
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
        unit=expects["unit"],
        names=tuple(names) if names else None,
    )


def reordered(batch: Batch, order: torch.Tensor, names: tuple[str, ...] | None) -> Batch:
    fields = ("x", "channel_mask", "kind", "position", "orientation", "has_position")
    return replace(batch, **{key: getattr(batch, key)[:, order] for key in fields}, names=names)


def test_every_card_of_a_pretrained_network_is_tested_here():
    assert set(published()) == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_card_gives_tokens_with_places_that_repeat_and_carry_a_gradient(name):
    card, model, batch = cards.read("models", name), small(name), windows(name)
    assert isinstance(model, BrainModel)
    contract = Contract.of(card["expects"], where=name)
    contract.joined(replace(model.contract, n_times=None), where=name)  # they do not contradict
    assert card["citation"]
    assert {"hub"} <= set(card["source"])
    assert card["unconfirmed"]
    x = batch.x.clone().requires_grad_()
    contract.check(batch, model=name)
    embedding = model.encode(replace(batch, x=x))
    n_tokens = embedding.tokens.shape[1]
    assert embedding.tokens.shape == (2, n_tokens, model.dim)
    assert embedding.mask.all()
    assert torch.isfinite(embedding.tokens).all()
    embedding.pooled().square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().amax(-1) > 0).all()  # every channel of every window counts
    with torch.no_grad():
        again, unnamed = model.encode(batch), model.encode(replace(batch, names=None))
    torch.testing.assert_close(again.pooled(), embedding.pooled().detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(unnamed.pooled(), again.pooled(), rtol=0, atol=0)
    assert model.token_time is not None
    assert model.token_channel is not None
    assert len(model.token_time) == len(model.token_channel) == n_tokens
    assert float(model.token_time.min()) > 0
    assert float(model.token_time.max()) < model.n_times / model.sfreq
    assert set(model.token_channel.tolist()) in ({-1}, set(range(model.n_channels)))


@pytest.mark.parametrize("name", ["cbramod", "steegformer", "signal_jepa"])
def test_places_of_tokens_are_those_of_the_samples_that_move_them(name):
    """A change of one channel in one patch moves the token of that place first of all."""
    model, batch = small(name), windows(name, 1)
    layers = {"cbramod": "network.patch_embedding.proj_in", "steegformer": "network.patch_embed"}
    site = layers.get(name, "network.feature_encoder")
    changed = batch.x.clone()
    start = model.n_times // 2
    changed[:, 3, start : start + 40] += 500
    seen = []
    handle = model.get_submodule(site).register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        model.encode(batch), model.encode(replace(batch, x=changed))
    handle.remove()
    moved = (seen[1] - seen[0]).abs()
    if name == "cbramod":  # batch feature (channel patch) sample
        moved = moved.amax((1, 3))
    moved = moved.reshape(len(model.token_time), -1).amax(1)
    token = int(moved.argmax())
    assert int(model.token_channel[token]) == 3
    assert float(model.token_time[token]) == pytest.approx((start + 20) / model.sfreq, abs=0.7)


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"signal_jepa", "steegformer"}))
def test_a_head_gives_logits_and_features_stay_the_same_size(name):
    model, batch = small(name, n_outputs=3), windows(name)
    with torch.no_grad():
        assert model(batch).shape == (2, 3)
    assert model.dim == small(name).dim
    assert any(key.startswith(model.head) for key in model.state_dict())
    with pytest.raises(ValueError, match=r"without a head \(n_outputs: null\)"):
        small(name)(batch)


@pytest.mark.parametrize("name", SMALL)
def test_modules_inside_can_be_recorded(name):
    model, batch, site = small(name), windows(name, 1), SMALL[name][2]
    assert site in sites(model)
    found = record(model, [site], run=model.encode, batches=[batch])
    assert found[site].shape[0] == 1


@pytest.mark.parametrize("name", SMALL)
def test_padding_that_all_windows_share_is_left_out_and_other_padding_refused(name):
    model, batch = small(name), windows(name)

    def more(value: torch.Tensor, fill: float = 0) -> torch.Tensor:
        return torch.cat([value, value.new_full((2, 1, *value.shape[2:]), fill)], 1)

    fields = ("x", "channel_mask", "position", "orientation", "has_position")
    padded = replace(
        batch,
        **{key: more(getattr(batch, key)) for key in fields},
        kind=more(batch.kind, int(Kind.PAD)),
    )
    with torch.no_grad():
        torch.testing.assert_close(model.encode(padded).tokens, model.encode(batch).tokens)
    mask = batch.channel_mask.clone()
    mask[1, -1] = False
    with pytest.raises(ValueError, match="padding in some windows only"):
        model.encode(replace(batch, channel_mask=mask))


# Names


def test_labram_gives_the_same_summary_whatever_the_order_of_named_channels():
    model, batch = small("labram"), windows("labram")
    order = torch.randperm(19, generator=torch.Generator().manual_seed(2))
    names = tuple(batch.names[i] for i in order)
    with torch.no_grad():
        straight, mixed = model.encode(batch), model.encode(reordered(batch, order, names))
        wrong = model.encode(reordered(batch, order, batch.names))
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(mixed.summary, straight.summary, **close)
    tokens = straight.tokens.unflatten(1, (19, -1))[:, order].flatten(1, 2)
    torch.testing.assert_close(mixed.tokens, tokens, **close)
    assert (wrong.summary - straight.summary).abs().max() > 1e-3  # so names are used


def test_labram_takes_any_channels_it_knows_when_the_batch_names_them():
    model, batch = small("labram"), windows("labram")
    few = reordered(batch, torch.tensor([4, 5, 17]), ("c3.", "C4", "EEG Cz"))
    with torch.no_grad():
        assert model.encode(few).tokens.shape == (2, 3 * 3, 200)
    with pytest.raises(ValueError, match=r"not C33, XY\. Did you mean C3"):
        model.encode(replace(few, names=("C33", "C4", "XY")))


@pytest.mark.parametrize("name", ["eegpt", "signal_jepa"])
def test_names_choose_the_learned_rows_when_the_network_is_built(name):
    names = ["T3", "cz", "C4.", "Oz"]
    model = small(name, channels=names, n_channels=4)
    swapped = small(name, channels=names[::-1], n_channels=4)
    swapped.load_state_dict(
        model.state_dict() | {k: v for k, v in swapped.state_dict().items() if "chans_id" in k}
    )
    batch = replace(reordered(windows(name), torch.arange(4), tuple(names)))
    turned = reordered(batch, torch.arange(4).flip(0), tuple(names[::-1]))
    with torch.no_grad():
        straight, back = model.encode(batch).pooled(), swapped.encode(turned).pooled()
    torch.testing.assert_close(straight, back, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="right channels in another order"):
        model.encode(turned)
    with pytest.raises(ValueError, match=r"knows 6\d channels by name, and not E17"):
        small(name, channels=["Cz", "E17"], n_channels=2)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["fp1", "Fp2.", "EEG CZ"], ["FP1", "FP2", "CZ"]),
        (["T3", "T7"], ["T3", "T7"]),  # learned apart
    ],
)
def test_names_match_in_any_case(given, found):
    assert match_names(given, vocabulary("Labram", {}), model="LaBraM") == found


@pytest.mark.parametrize(
    ("given", "known", "message"),
    [
        (["T3", "T7"], ["T7", "Cz"], "T7 is named more than once"),
        (["Fp11"], ["Fp1", "Fp2"], "knows 2 channels by name, and not Fp11. Did you mean Fp1"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(given, known, message):
    with pytest.raises(ValueError, match=message):
        match_names(given, known, model="X")


def test_an_old_name_stands_for_the_new_one_and_the_other_way_round():
    assert match_names(["T3", "P8"], ["T7", "T6"], model="X") == ["T7", "T6"]


# Contract


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "reve",
            {"has_position": torch.zeros(2, 19, dtype=torch.bool)},
            "without a known position",
        ),
        ("luna", {"sfreq": 200.0}, "has 200 Hz, expected 256 Hz"),
        ("biot", {"names": tuple(f"C{i}-A1" for i in range(16))}, "other channels than the 16"),
        ("cbramod", {"x": torch.full((2, 19, 600), float("nan"))}, "NaN or infinite"),
        ("labram", {"x": torch.zeros(2, 19, 700)}, "windows of 700 samples, expected 600"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_network_runs(name, change, message):
    model = small(name)
    model.network.forward = None  # would be called
    with pytest.raises(ValueError, match=message):
        model.encode(replace(windows(name), **change))


def test_networks_that_scale_a_window_do_not_see_its_amplitude():
    for name in ("biot", "luna", "bendr"):
        model, batch = small(name), windows(name)
        with torch.no_grad():
            louder = model.encode(replace(batch, x=7 * batch.x)).pooled()
            torch.testing.assert_close(louder, model.encode(batch).pooled(), rtol=1e-3, atol=1e-4)


def test_percentile_is_taken_of_each_channel_in_each_window():
    model, batch = small("biot"), windows("biot", 1)
    seen: list[torch.Tensor] = []
    model.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model.encode(batch)
    largest = torch.quantile(seen[0].abs(), 0.95, dim=-1)
    torch.testing.assert_close(largest, torch.ones_like(largest))
