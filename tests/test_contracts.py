"""Every model card obeys its contract, and every class can be named in a recipe."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
from card_roles import reads_batches
from torch import nn

from neurofm import cards, objectives, readouts
from neurofm.batch import Batch, BrainModel, Objective, Readout, Tokenizer
from neurofm.io import load_tokenizer
from neurofm.tasks.token_cache import _window
from neurofm.units import Kind

MODELS = cards.names("models")


OF_BATCHES = [name for name in MODELS if reads_batches(name)]
# Networks of braindecode are large, and built for one window: tests/test_braindecode_published.py.
OWN = [
    name
    for name in OF_BATCHES
    if not cards.read("models", name)["class_path"].endswith(".BraindecodeModel")
]
OF_STIMULI = sorted(set(MODELS) - set(OF_BATCHES))
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")
GOLDEN = Path(__file__).parent / "golden"
# Published sizes: parameters of the whole model, and the original's list of tensors.
UPSTREAM = {
    "brainomni_tiny": (8_424_704 + 5_050_338, "brainomni/upstream_keys_tiny.json"),
    "brainomni_base": (32_707_328 + 5_050_338, "brainomni/upstream_keys_base.json"),
    "braintokenizer": (5_050_338, "brainomni/upstream_keys_tokenizer.json"),
    "du_in_tokenizer": (5_801_386, "du_in/upstream_keys_vqvae.json"),
    "du_in": (3_890_304, "du_in/upstream_keys_mae.json"),
    "du_in_classifier": (4_239_709, "du_in/upstream_keys_cls.json"),
    # Without the codes, which the original counts as parameters though nothing trains them.
    "tfm_tokenizer": (1_166_100 - 8192 * 64, "tfm_tokenizer/upstream_keys_tokenizer_2x2x8.json"),
    "tfm_encoder_tuev": (724_998, "tfm_tokenizer/upstream_keys_classifier_64x4_6class.json"),
    "ephys_tokenizer": (231_040, "meg_gpt/upstream_keys_tokenizer_released.json"),
    "meg_gpt": (4_080_508, "meg_gpt/upstream_keys_gpt_released.json"),
    "brain_module": (9_565_054, "brainmodule/upstream_keys.json"),
    # Without the table of one token that nothing in the original reads.
    "wave": (31_281_152 - 768, "wave_fmri/upstream_keys.json"),
    "braincorl_clip": (97_074_852, "braincorl/upstream_keys_clip.json"),
    "braincorl_dino": (156_000_196, "braincorl/upstream_keys_dino.json"),
    "braincorl_siglip": (277_044_132, "braincorl/upstream_keys_siglip.json"),
    # Without the channel embedding, 45 x 256, that nothing in the original reads.
    "mirepnet": (6_734_339 - 45 * 256, "mirepnet/upstream_keys_base_pretraining.json"),
}


def skeleton(card: dict[str, Any]) -> nn.Module:
    """The model without memory for its tensors."""
    with torch.device("meta"):
        return cards.build({key: card[key] for key in ("class_path", "init_args")})


@pytest.mark.parametrize("name", OWN)
def test_model_card_builds_and_says_what_it_expects(name: str) -> None:
    card = cards.read("models", name)
    model = skeleton(card)
    assert isinstance(model, BrainModel | Tokenizer)
    assert model.dim > 0
    expects = card["expects"]
    assert {kind.upper() for kind in expects["kinds"]} <= {kind.name for kind in Kind}
    assert expects.get("sfreq", 1) > 0  # none for a tokenizer of any rate
    assert cards.spec_of(model)["class_path"] == card["class_path"]
    assert card["citation"]


@pytest.mark.parametrize("name", OF_STIMULI)
def test_card_of_an_encoding_model_builds_and_says_where_it_is_from(name: str) -> None:
    card = cards.read("models", name)
    model = skeleton(card)
    assert sum(p.numel() for p in model.parameters()) > 0
    assert cards.spec_of(model)["class_path"] == card["class_path"]
    assert card["citation"] and card["license"]


def test_readme_lists_every_model_card() -> None:
    readme = (cards.root("models") / "README.md").read_text(encoding="utf-8")
    assert [name for name in MODELS if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("name", list(UPSTREAM))
def test_published_size_holds_every_tensor_of_the_original(name: str) -> None:
    n_parameters, file = UPSTREAM[name]
    model = skeleton(cards.read("models", name))
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    listed = json.loads((GOLDEN / file).read_text())["keys"]
    shapes = {k: v["shape"] if isinstance(v, dict) else v[0] for k, v in listed.items()}
    upstream = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    renamed = {key: tuple(value.shape) for key, value in model.rename_keys(upstream).items()}
    assert renamed == {key: tuple(value.shape) for key, value in model.state_dict().items()}


# What any model must accept


def sample(n: int, expects: dict[str, Any]) -> Batch:
    """Noise of 2 s at six electrodes, or of the length and at the electrodes it insists on."""
    generator = torch.Generator().manual_seed(0)
    channels = len(expects.get("channels", range(expects.get("n_channels", 6))))
    sfreq = float(expects.get("sfreq", 128))
    kind = int(Kind[expects["kinds"][0].upper()])
    return Batch(
        x=20
        * torch.randn(n, channels, expects.get("n_times", round(2 * sfreq)), generator=generator),
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.full((n, channels), kind),
        position=0.05 * torch.randn(n, channels, 3, generator=generator),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.ones(n, channels, dtype=torch.bool),
        sfreq=sfreq,
        onset=torch.arange(float(n), dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.long),
        recording=torch.zeros(n, dtype=torch.long),
    )


def padded(batch: Batch) -> Batch:
    """Two more channels, which are padding."""

    def more(value: torch.Tensor, fill: int = 0) -> torch.Tensor:
        return torch.cat([value, value.new_full((len(value), 2, *value.shape[2:]), fill)], 1)

    names = ("x", "channel_mask", "position", "orientation", "has_position")
    changed = {name: more(getattr(batch, name)) for name in names}
    return replace(batch, **changed, kind=more(batch.kind, int(Kind.PAD)))


@pytest.mark.parametrize("name", OWN)
def test_model_takes_padding_unknown_positions_and_any_batch_size(name: str) -> None:
    card = cards.read("models", name)
    torch.manual_seed(0)
    arguments = dict(card["init_args"])
    if "tokenizer" in card["expects"]:  # published without the tokenizer it reads from
        arguments["tokenizer"] = load_tokenizer(card["expects"]["tokenizer"])
    model = cards.build({"class_path": card["class_path"], "init_args": arguments}).eval()
    batch = sample(2, card["expects"])

    def output(given: Batch) -> torch.Tensor:
        with torch.no_grad():
            if isinstance(model, BrainModel):
                return model.encode(given).pooled()
            found = model(given)  # single-channel tokenizers have tokens of padding too
            return found.values[found.mask].reshape(len(given), -1)

    output(batch)  # an untrained code book starts from the first batch
    whole = output(batch)
    assert torch.isfinite(whole).all()
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(output(padded(batch)), whole, **close)
    torch.testing.assert_close(output(sample(1, card["expects"])).shape, whole[:1].shape)
    one = [output(_window(batch, i)) for i in range(2)]
    torch.testing.assert_close(torch.cat(one), whole, **close)
    nowhere = replace(
        batch,
        has_position=torch.zeros_like(batch.has_position),
        position=torch.zeros_like(batch.position),
    )
    assert torch.isfinite(output(nowhere)).all()


# Names in recipes


def public(module: Any) -> list[str]:
    """Import paths of the classes a module defines for recipes to name."""
    return [
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, nn.Module)
        if f"{value.__module__}.".startswith(f"{module.__name__}.")
    ]


@pytest.mark.parametrize(
    ("role", "spec"),
    [
        (Readout, {"class_path": path, "init_args": {"dim": 8, "n_outputs": 2}})
        for path in public(readouts)
    ]
    + [(Objective, {"class_path": path}) for path in public(objectives)]
    + [(BrainModel | Tokenizer, name) for name in OF_BATCHES],
    ids=str,
)
def test_a_recipe_may_name_it_by_class_path(role: Any, spec: Any) -> None:
    """jsonargparse compares signatures with the protocol, return annotation included."""
    if isinstance(spec, str):
        card = cards.read("models", spec)
        spec = {key: card[key] for key in ("class_path", "init_args")}
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--role", type=role)
    assert parser.parse_object({"role": spec}).role.class_path == spec["class_path"]
