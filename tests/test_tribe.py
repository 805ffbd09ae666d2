"""Tribe: several kinds of features over time to several people; vision networks from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from response_toys import PairsData, fitted, pairs_of
from torch import Tensor

from neurofm.compat import guard_torchaudio, optional
from neurofm.models import TransformerBrainEncoder, Tribe, VisionGrid, VisionMaps
from neurofm.tasks import Encode

SIZES = {"text": [2, 3], "video": [1, 4]}
CHANNELS, TIMES = 5, 12


def model(**options: object) -> Tribe:
    arguments = {"n_subjects": 2, "dim": 16, "depth": 1, "heads": 2, "low_rank": 8, "longest": 40}
    torch.manual_seed(0)
    return Tribe(CHANNELS, modalities=SIZES, **(arguments | options))  # type: ignore[arg-type]


def film(n: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Responses at half the rate of the features, linear in both kinds, by person."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, TIMES, 10, generator=generator)
    weights = torch.randn(2, CHANNELS, 10, generator=torch.Generator().manual_seed(9))
    subject = torch.arange(n) % 2
    y = torch.einsum("bcf,btf->bct", weights[subject], x).unflatten(2, (-1, 2)).mean(3)
    return x, y, subject


def test_responses_of_both_people_are_learned() -> None:
    x, y, subject = film(192)
    data = PairsData(pairs_of(x, y, subject=subject), n_train=160, batch_size=16)
    task = Encode(model(modality_dropout=0.0, subject_dropout=0.0), lr=1e-2, final_lr=0.1)
    assert fitted(task, data, max_epochs=12) > 0.8
    assert task.r.shape == (2, CHANNELS)


@pytest.mark.slow
def test_the_mean_person_and_a_film_without_text_are_predicted_after_dropout() -> None:
    x, y, subject = film(512)
    x_silent = x.clone()
    x_silent[..., :6] = 0
    silent = torch.einsum("bcf,btf->bct", _weights()[subject], x_silent)
    silent = silent.unflatten(2, (-1, 2)).mean(3)
    scores = {}
    for rate in (0.0, 0.3):
        made = model(modality_dropout=rate, subject_dropout=0.2)
        data = PairsData(pairs_of(x, y, subject=subject), n_train=448, batch_size=32)
        fitted(Encode(made, lr=1e-2, final_lr=0.1), data, max_epochs=15)
        with torch.no_grad():
            said = made.eval().respond(x_silent[448:], subject=subject[448:])
        scores[rate] = float(
            torch.corrcoef(torch.stack([said.flatten(), silent[448:].flatten()]))[0, 1]
        )
        with torch.no_grad():
            anybody = made.respond(x[448:])
        mean = (
            torch.einsum("cf,btf->bct", _weights().mean(0), x[448:]).unflatten(2, (-1, 2)).mean(3)
        )
        assert float(torch.corrcoef(torch.stack([anybody.flatten(), mean.flatten()]))[0, 1]) > 0.8
    assert scores[0.3] > max(scores[0.0], 0.6)


def _weights() -> Tensor:
    return torch.randn(2, CHANNELS, 10, generator=torch.Generator().manual_seed(9))


def test_responses_are_on_the_grid_of_volumes() -> None:
    x = film(3)[0]
    assert model().eval().respond(x).shape == (3, CHANNELS, 6)
    assert model(per_volume=1.5).eval().respond(x).shape == (3, CHANNELS, 8)
    assert model(per_volume=100).eval().respond(x[:, :5]).shape == (3, CHANNELS, 1)


def test_the_mean_person_has_the_mean_map() -> None:
    made, x = model().eval(), film(4)[0]
    each = [made.respond(x, subject=torch.full((4,), s)) for s in range(2)]
    torch.testing.assert_close(made.respond(x), (each[0] + each[1]) / 2)


def test_a_film_without_text_does_not_depend_on_what_narrows_text() -> None:
    made, x = model().eval(), film(2)[0]
    x[0, :, :6] = 0
    before = made.respond(x)
    torch.nn.init.normal_(made.narrow["text"][1].bias)
    after = made.respond(x)
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_one_kind_of_features_always_stays_in_training() -> None:
    generator = torch.Generator().manual_seed(0)
    made = model(modality_dropout=0.9).train()
    keep = made.left_in(2000, torch.device("cpu"), generator)
    assert bool(keep.any(1).all())
    assert float(keep.float().mean()) == pytest.approx((1 - 0.9**2 + 0.1**2 + 0.81) / 2, abs=0.05)
    assert bool(made.eval().left_in(5, torch.device("cpu")).all())


def test_people_are_replaced_by_the_mean_in_training_alone() -> None:
    made, subject = model(subject_dropout=0.25).train(), torch.ones(4000, dtype=torch.int64)
    drawn = made._people(4000, subject.device, subject, torch.Generator().manual_seed(0))
    assert float((drawn == 2).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(made.eval()._people(4000, subject.device, subject), subject)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: model().respond(torch.randn(1, 4, 9)), r"batch x time x 10 \(6 text \+ 4 video\)"),
        (lambda: model().respond(torch.randn(1, 41, 10)), "41 samples of features, there are"),
        (
            lambda: model().respond(torch.randn(1, 4, 10), subject=torch.tensor([2])),
            "person 2 are asked for, the model knows 2 people",
        ),
        (lambda: model(dim=15), "dim is 15, expected a multiple of 2 kinds"),
        (lambda: model(per_volume=0), "per_volume 0 above"),
        (lambda: Tribe(3, modalities={}), "at least one kind"),
    ],
)
def test_other_features_and_people_are_refused(act, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        act()


# Vision networks of transformers, with random weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "prefix"), [("Dinov2", 1), ("ViT", 1), ("Dinov2WithRegisters", 5)]
)
def test_the_grid_of_a_vision_transformer_are_its_queries_of_patches(
    kind: str, prefix: int, tmp_path: Path
) -> None:
    guard_torchaudio()
    library = optional("transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = getattr(library, f"{kind}Config")(**size, patch_size=4, image_size=16)
    network = getattr(library, f"{kind}Model")(config).eval()
    network.save_pretrained(tmp_path)
    image = torch.rand(2, 3, 14, 18)  # padded to 16 x 20
    found = {w: VisionGrid(str(tmp_path), block=-2, features=w) for w in ("query", "output")}
    padded = (image - found["query"].mean) / found["query"].deviation
    padded = torch.nn.functional.pad(padded, (0, 2, 0, 2))
    more = {"interpolate_pos_encoding": True} if kind == "ViT" else {}
    with torch.no_grad():
        states = network(padded, output_hidden_states=True, **more).hidden_states
    want = states[2][:, prefix:].transpose(1, 2).unflatten(2, (4, 5))
    torch.testing.assert_close(found["output"](image), want)
    assert found["query"](image).shape == (2, 16, 4, 5)
    assert not torch.allclose(found["query"](image), want)
    encoder = TransformerBrainEncoder(
        *(3, 2), rois=["a"], dim=16, heads=2, backbone=found["query"]
    ).train()
    assert encoder.respond(image).shape == (2, 5)
    assert encoder.attention(image).shape == (1, 2, 2, 4, 5)
    with pytest.raises(ValueError, match=r"block is 3, .* has 3: choose -3 to 2"):
        VisionGrid(str(tmp_path), block=3)


@pytest.mark.slow
def test_the_last_maps_of_a_resnet(tmp_path: Path) -> None:
    guard_torchaudio()
    library = optional("transformers")
    config = library.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6, 8, 10], depths=[1, 1, 1, 1], layer_type="basic"
    )
    library.ResNetModel(config).save_pretrained(tmp_path)
    maps = VisionMaps(str(tmp_path))(torch.rand(2, 3, 64, 64))
    assert maps.shape == (2, 10, 2, 2)
    assert VisionMaps(str(tmp_path), stage=1)(torch.rand(2, 3, 64, 64)).shape[1] == 4
