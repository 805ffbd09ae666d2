"""The transformer brain encoder: planted routes are found; bad input; names of checkpoints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.models import TransformerBrainEncoder, ensemble_weights

GOLDEN = Path(__file__).parent / "golden" / "transformer_brain_encoder"
SIZE, DIM, CHANNELS = 4, 6, 8


def images(n: int, *, moving: bool, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Grids, responses, and which patch each hemisphere's area reads.

    A mark in the first feature says where the left area's patch is, in the second where the right
    one's is; or both are where they always are, unmarked. Responses are linear in its content.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, CHANNELS, DIM - 2, generator=torch.Generator().manual_seed(99))
    x = torch.randn(n, DIM, SIZE, SIZE, generator=generator)
    x[:, :2] = 0
    row, at = torch.arange(n), torch.tensor([[5, 10]]).expand(n, 2)
    if moving:
        at = torch.randint(SIZE * SIZE, (n, 2), generator=generator)
    for side in range(2) if moving else ():
        x[row, side, at[:, side] // SIZE, at[:, side] % SIZE] = 4.0
    seen = [x[row, 2:, at[:, side] // SIZE, at[:, side] % SIZE] for side in range(2)]
    y = torch.cat([part @ weight.T for part, weight in zip(seen, weights, strict=True)], 1)
    return x, F.normalize(y, dim=0) * n**0.5, at


def encoder(router: str = "transformer", **options: Any) -> TransformerBrainEncoder:
    arguments = {"rois": ["area"], "n_features": DIM, "grid": (SIZE, SIZE), "stride": 1, "dim": 32}
    arguments |= {"heads": 2, "feedforward": 32, "dropout": 0.0, "penalty_factor": 0.0}
    torch.manual_seed(0)
    return TransformerBrainEncoder(CHANNELS, CHANNELS, router=router, **(arguments | options))


def score(router: str, *, moving: bool, steps: int, lr: float) -> tuple[float, float]:
    """Correlation on images not trained on; how often the attention is highest where it should."""
    model = encoder(router)
    x, y, _ = images(768, moving=moving, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(x), (96,))
        loss = (model.respond(x[chosen]) - y[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x, y, at = images(200, moving=moving, seed=1)
    with torch.no_grad():
        p = model.eval().respond(x)
        z = [(v - v.mean(0)) / v.std(0, correction=0) for v in (p, y)]
        found = -1.0
        if router != "linear":
            found = float((model.attention(x)[-1].flatten(2).argmax(2) == at).float().mean())
    return float((z[0] * z[1]).mean()), found


STEPS = {"transformer": (200, 1e-2), "spatial_feature": (400, 3e-2), "linear": (120, 1e-2)}


def scores(*, moving: bool, longer: int = 1) -> dict[str, tuple[float, float]]:
    return {
        router: score(router, moving=moving, steps=longer * steps, lr=lr)
        for router, (steps, lr) in STEPS.items()
    }


def test_queries_follow_a_patch_that_moves_and_baselines_cannot() -> None:
    found = scores(moving=True)
    r, hits = found["transformer"]
    assert r > 0.95 and hits > 0.98  # the route of both areas is recovered
    assert max(found["spatial_feature"][0], found["linear"][0]) < 0.4


@pytest.mark.slow
def test_all_routers_tie_where_the_receptive_field_rests() -> None:
    found = scores(moving=False, longer=2)
    assert min(r for r, _ in found.values()) > 0.98
    assert found["transformer"][1] > 0.98 and found["spatial_feature"][1] == 1.0


@pytest.mark.slow
def test_the_variant_follows_too() -> None:
    r, hits = score("custom_transformer", moving=True, steps=400, lr=1e-2)
    assert r > 0.98 and hits > 0.98


def test_attention_maps_add_up_to_one_and_explain_the_tokens() -> None:
    model = encoder(n_features=32, decoder_layers=2, encoder_layers=1).eval()
    grid = torch.randn(3, 32, 2, 5)
    maps = model.attention(grid)
    assert maps.shape == (2, 3, 2, 2, 5)
    torch.testing.assert_close(maps.sum((3, 4)), torch.ones(2, 3, 2))
    blind = grid.clone()
    blind[..., 0] = torch.randn(3, 32, 2)
    assert not torch.allclose(model.attention(blind), maps)


def test_asking_for_maps_changes_no_prediction() -> None:
    model = encoder().eval()
    grid = torch.randn(2, DIM, 3, 3)
    plain, mapped = (model.vertices(model.route(grid, maps=maps)) for maps in (False, True))
    torch.testing.assert_close(plain, mapped)


def test_hemispheres_are_areas_of_one() -> None:
    areas, halves = encoder(), encoder(queries="hemis")
    halves.load_state_dict(areas.state_dict())
    grid = torch.randn(2, DIM, 3, 3)
    torch.testing.assert_close(areas.eval().respond(grid), halves.eval().respond(grid))


def test_a_vertex_of_two_areas_gets_the_sum() -> None:
    model = encoder(rois=["a", "b"]).eval()
    one = torch.tensor([[1, 0], [0, 1]]).repeat(1, CHANNELS // 2).bool()
    grid = torch.randn(2, DIM, 3, 3)
    found = []
    for masks in (one, ~one, torch.ones_like(one)):
        model.set_regions(masks, masks)
        found.append(model.respond(grid))
    torch.testing.assert_close(found[0] + found[1], found[2])


def test_a_batch_of_one_is_a_row_of_many() -> None:
    model = encoder(queries="voxels").eval()
    grid = torch.randn(3, DIM, 3, 4)
    torch.testing.assert_close(model.respond(grid)[1:2], model.respond(grid[1:2]))


@configured
class Patches(nn.Module):
    """A backbone: one linear map of patches of 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, DIM, 4, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Tensor:
        return self.dropout(self.map(image))


def test_a_backbone_is_frozen_in_training_too() -> None:
    model = encoder(backbone=Patches()).train()
    assert not model.backbone.training
    image = torch.randn(2, 3, 16, 16)
    model.respond(image).sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    torch.testing.assert_close(model.respond(image), model.respond(image))


def test_the_best_layer_counts_most_for_each_vertex() -> None:
    weights = ensemble_weights(torch.tensor([[0.5, 0.1, torch.nan], [0.3, 0.2, 0.0]]))
    torch.testing.assert_close(weights.sum(0), torch.ones(3))
    assert weights[0, 0] > 0.99 and weights[1, 1] > 0.95
    assert float(weights[0, 2]) == pytest.approx(0.5)


def test_every_tensor_of_the_original_is_taken_or_known_to_be_unused() -> None:
    listed = json.loads((GOLDEN / "upstream_keys.json").read_text())["keys"]
    upstream = {key: torch.empty(shape, device="meta") for key, (shape, _) in listed.items()}
    with torch.device("meta"):
        model = TransformerBrainEncoder(19004, 20544)
    model.load_state_dict(model.rename_keys(upstream), assign=True)
    unused = 768 * 2304 + 2304 + 768 * 768 + 768 + 64 * 768 + 64  # self_attn, memory_proj
    assert sum(p.numel() for p in model.parameters()) == 36_805_564 - unused


# What is refused


def test_the_original_does_not_say_which_vertex_is_where() -> None:
    model = encoder(rois=["a", "b"])
    with pytest.raises(ValueError, match="Call set_regions with the masks of this person"):
        model.respond(torch.randn(1, DIM, 3, 3))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda m: m.respond(torch.randn(1, 7, 4, 4)), r"\[7, 4, 4\], expected 6 features"),
        (lambda m: m.take_regions(["a"] * 7), "7 names of areas for 16 vertices"),
        (lambda m: m.take_regions(["", "V9", *[""] * 14]), "vertex 1 is in 'V9', which is none"),
        (
            lambda m: m.set_regions(torch.ones(2, 5).bool(), torch.ones(2, 8).bool()),
            r"left hemisphere are \[2, 5\] \(areas, vertices\), expected \[2, 8\]",
        ),
    ],
)
def test_other_features_and_areas_are_refused(act, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        act(encoder(rois=["a", "b"]))


def test_a_vertex_in_no_area_is_said() -> None:
    masks = torch.ones(2, 8, dtype=torch.bool)
    masks[:, 3] = False
    with pytest.warns(UserWarning, match="1 of 8 vertices of the left hemisphere"):
        encoder(rois=["a", "b"]).set_regions(masks, masks | True)


@pytest.mark.parametrize("router", ["spatial_feature", "linear"])
def test_a_baseline_is_built_for_one_size_of_image(router: str) -> None:
    with pytest.raises(ValueError, match=r"\[6, 5, 4\], expected 6 features and 4 x 4"):
        encoder(router).respond(torch.randn(1, DIM, 5, 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queries": "categories"}, "queries is 'categories', expected one of 'rois_all'"),
        ({"router": "mean"}, "router is 'mean'"),
        ({"positions": "none"}, "positions is 'none'"),
        ({"dim": 33}, "dim is 33, expected an even number"),
        ({"router": "custom_transformer", "pre_norm": False}, "norms first only"),
        ({"router": "custom_transformer", "dim": 24}, "multiple of 16"),
        ({"router": "spatial_feature", "queries": "hemis"}, "'rois_all' or 'voxels' only"),
        ({"encoder_layers": 2, "memory_layer": 2}, "memory_layer is 2, there are 2"),
    ],
)
def test_impossible_arguments_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encoder(**options)


def test_learned_positions_end() -> None:
    model = encoder(n_features=32, positions="learned")
    with pytest.raises(ValueError, match="51 x 2, expected at most 50 x 50"):
        model.respond(torch.randn(1, 32, 51, 2))


def test_every_case_of_the_original_agrees() -> None:
    sys.path.insert(0, str(GOLDEN.parents[1]))
    import check_golden

    for name in ("transformer_brain_encoder", "readouts"):
        lines = check_golden.check(GOLDEN.parent / name)
        assert len(lines) == {"transformer_brain_encoder": 44, "readouts": 12}[name]
        assert [line.name for line in lines if not line.passed] == []
