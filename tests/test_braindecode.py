"""Networks of braindecode behind our roles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from neurofm import cards
from neurofm.batch import Batch, BrainModel
from neurofm.models import BraindecodeModel


def _batch(n: int = 3, n_channels: int = 8, n_times: int = 256, sfreq: float = 128.0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        x=10 * torch.randn(n, n_channels, n_times, generator=generator),
        channel_mask=torch.ones(n, n_channels, dtype=torch.bool),
        kind=torch.zeros(n, n_channels, dtype=torch.int64),
        position=torch.zeros(n, n_channels, 3),
        orientation=torch.zeros(n, n_channels, 3),
        has_position=torch.zeros(n, n_channels, dtype=torch.bool),
        sfreq=sfreq,
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
    )


def _model(name: str = "EEGNet", **others) -> BraindecodeModel:
    size = {"n_channels": 8, "n_times": 256, "sfreq": 128.0, "n_outputs": 4}
    return BraindecodeModel(name, **(size | others)).eval()


@pytest.mark.parametrize("name", ["EEGNet", "ShallowFBCSPNet", "EEGConformer"])
def test_networks_give_logits_and_an_embedding_of_the_promised_size(name):
    model, batch = _model(name), _batch()
    assert isinstance(model, BrainModel)
    assert model(batch).shape == (3, 4)
    embedding = model.encode(batch)
    assert embedding.pooled().shape == (3, model.dim)
    assert embedding.mask.all()


def test_a_network_that_names_its_features_gives_one_token_per_channel_and_patch():
    model = _model("CBraMod", n_times=400, sfreq=200.0, arguments={"n_layer": 1})
    batch = _batch(n_times=400, sfreq=200.0)
    assert model.dim == 200
    assert model.encode(batch).tokens.shape == (3, 8 * 2, 200)


def test_features_hold_all_that_the_networks_own_head_uses():
    model, batch = _model(), _batch()
    features = model.encode(batch).pooled()
    head = model.network.final_layer.conv_classifier
    by_hand = features @ head.weight.flatten(1).T + head.bias
    torch.testing.assert_close(by_hand, model(batch))


def test_input_scale_multiplies_the_microvolts():
    torch.manual_seed(0)
    plain = _model()
    scaled = _model(input_scale=0.5)
    scaled.load_state_dict(plain.state_dict())
    batch = _batch()
    torch.testing.assert_close(scaled(replace(batch, x=2 * batch.x)), plain(batch))


def test_the_recorded_spec_rebuilds_the_same_network():
    model = _model("ShallowFBCSPNet", arguments={"n_filters_time": 6})
    again = cards.build(cards.spec_of(model))
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(_batch()), model(_batch()))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            _batch(n_channels=9),
            "the batch has 9 channels, expected 8 in a fixed order.*PickChannels",
        ),
        (_batch(n_times=200), "windows of 200 samples, expected 256"),
        (_batch(sfreq=160.0), "has 160 Hz, expected 128 Hz"),
    ],
)
def test_windows_that_do_not_fit_are_refused_before_the_network_sees_them(batch, message):
    model = _model()
    for use in (model, model.encode):
        with pytest.raises(ValueError, match=message):
            use(batch)


def test_padding_channels_are_refused():
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[1, 6:] = False
    with pytest.raises(ValueError, match=r"2 of them padding.*same channels for all"):
        _model()(replace(_batch(), channel_mask=mask))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "EegNet"}, "Did you mean EEGNet"),
        ({"arguments": {"drop_prb": 0.1}}, "no argument 'drop_prb'. Did you mean drop_prob"),
        ({"arguments": {"n_chans": 4}}, "'n_chans' belongs to the wrapper"),
        ({"channels": ["C3"]}, "1 channel names for 8 channels"),
        ({"name": "AttnSleep"}, "AttnSleep does not work for 8 channels and 256 samples"),
        ({"name": "NeuroPose"}, "NeuroPose does not work"),
    ],
)
def test_mistakes_are_named_when_the_network_is_built(arguments, message):
    name = arguments.pop("name", "EEGNet")
    with pytest.raises(ValueError, match=message):
        _model(name, **arguments)


def test_a_network_without_a_single_head_gives_logits_but_no_embedding():
    model = _model("ATCNet", n_times=640)
    batch = _batch(n_times=640)
    assert model.dim == 0
    assert model(batch).shape == (3, 4)
    with pytest.raises(ValueError, match="no single last layer"):
        model.encode(batch)
