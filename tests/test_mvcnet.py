"""MVCNet: parity, the branch that decodes, contrast, and training on views."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from test_dbconformer import make_batch, pad, rhythms
from torch.nn import functional as F

from neurofm import load_model, save_model
from neurofm.batch import Batch, BrainModel
from neurofm.cards import build, spec_of
from neurofm.data import Flip, ReflectChannels, ShiftFrequency
from neurofm.models import DBConformer, MVCNet
from neurofm.nn.contrast import between_networks, between_views, nt_xent
from neurofm.readouts import class_head
from neurofm.tasks import DecodeViews

GOLDEN = Path(__file__).parent / "golden" / "mvcnet"
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
PARTS = {"stem": 6_720, "head": 1_026, "attention": 8_011_000, "project": 46_111_232}
MIRROR = [[0, 3], [1, 4], [2, 5]]


def small(**changes: object) -> MVCNet:
    torch.manual_seed(0)
    arguments = {
        "n_channels": 6,
        "n_times": 101,
        "sfreq": 100.0,
        "patch": 20,
        "width": 8,
        "kernel": 15,
        "hidden": 32,
    }
    return MVCNet(**arguments | changes).eval()


def task_of(model: MVCNet | DBConformer | None = None, **changes: object) -> DecodeViews:
    views = [Flip(), ShiftFrequency(), ReflectChannels(["left_hand", "right_hand"], pairs=MIRROR)]
    arguments = {"n_outputs": 2, "views": views} | changes
    return DecodeViews(small() if model is None else model, **arguments)


def pooled(model: MVCNet, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(batch).pooled()


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    path = Path(__file__).with_name("check_golden.py")
    spec = importlib.util.spec_from_file_location("check_golden", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = module
    spec.loader.exec_module(module)
    return module


def test_every_tensor_of_the_original_agrees(checker: ModuleType) -> None:
    lines = checker.check(GOLDEN)
    assert len(lines) == 31
    assert [line.name for line in lines if not line.passed] == []


def test_pairs_that_the_original_lists_exchange_each_channel_once(checker: ModuleType) -> None:
    checks = checker.module("mvcnet")
    for corpus in checks.PAIRS:
        pairs = checks.pairs_of(corpus)
        assert len({i for pair in pairs for i in pair}) == 2 * len(pairs)


def upstream() -> dict[str, torch.Tensor]:
    listed = json.loads((GOLDEN / "upstream_keys.json").read_text())["state_dict"]
    return {key: torch.empty(entry["shape"], device="meta") for key, entry in listed.items()}


def test_published_size_holds_every_tensor_of_the_original_but_the_one_nothing_reads() -> None:
    with torch.device("meta"):
        model = MVCNet()
    renamed = {key: tuple(value.shape) for key, value in model.rename_keys(upstream()).items()}
    assert renamed == {key: tuple(value.shape) for key, value in model.state_dict().items()}
    companion = model.companion
    parts = {
        "stem": model.stem,
        "head": model.head,
        "attention": companion.attention,
        "project": companion.project,
    }
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    unread = 2 * 512 + 2
    listed = json.loads((GOLDEN / "upstream_keys.json").read_text())["n_parameters"]
    assert sum(sizes.values()) == listed - unread
    assert (sizes["head"], sizes["attention"], sizes["project"]) == tuple(PARTS.values())[1:]
    assert (model.dim, model.samples) == (512, 1000)


def test_a_file_as_the_original_saves_it_is_all_that_decoding_needs() -> None:
    saved = {
        key.replace("netF.", "0.").replace("netC.", "1."): value
        for key, value in upstream().items()
        if key.startswith(("netF.", "netC."))
    }
    with torch.device("meta"):
        model = MVCNet(contrast=False)
    assert set(model.rename_keys(saved)) == set(model.state_dict())
    assert set(model.rename_keys(upstream())) == set(model.state_dict())


def test_only_the_convolutional_branch_decodes() -> None:
    model, batch = small(), make_batch()
    assert isinstance(model, BrainModel)
    before = pooled(model, batch)
    with torch.no_grad():
        for parameter in model.companion.parameters():
            parameter.fill_(torch.nan)
    assert torch.equal(pooled(model, batch), before)
    alone = small(contrast=False)
    alone.load_state_dict(alone.rename_keys(model.state_dict()))
    assert torch.equal(pooled(alone, batch), before)
    torch.testing.assert_close(alone.logits(batch.x), class_head(alone, 2)(alone.encode(batch)))


def test_tokens_are_the_patches_and_the_summary_all_of_them() -> None:
    embedding = small().encode(make_batch())
    assert embedding.tokens.shape == (3, 5, 8) and embedding.mask.all()
    assert torch.equal(embedding.pooled(), embedding.tokens.transpose(1, 2).flatten(1))


def test_the_companion_describes_windows_in_as_many_features() -> None:
    model, batch = small(), make_batch()
    projection = model.project(batch)
    assert projection.shape == (3, model.dim) and projection.abs().max() < 1
    cut = batch.x.clone()
    cut[..., -1] = 99.0  # the dropped sample
    assert torch.equal(model.describe(cut), projection)


def test_padding_and_batch_size_change_nothing() -> None:
    model, batch = small(), make_batch()
    whole = pooled(model, batch)
    torch.testing.assert_close(pooled(model, pad(batch, float("nan"))), whole, **CLOSE)
    single = [pooled(model, batch._map(lambda t, i=i: t[i : i + 1])) for i in range(3)]
    torch.testing.assert_close(torch.cat(single), whole, **CLOSE)


def test_save_and_load(tmp_path: Path) -> None:
    model, batch = small(), make_batch()
    loaded = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert torch.equal(pooled(loaded, batch), pooled(model, batch))
    assert torch.equal(loaded.project(batch), model.project(batch))
    assert spec_of(loaded) == spec_of(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sfreq": 160.0}, r"160 Hz, expected 100 Hz"),
        ({"x": torch.randn(3, 6, 90)}, "90 samples, expected 101"),
        ({"x": torch.full((3, 6, 101), torch.nan)}, "NaN"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    for call in (small().encode, small().project):
        with pytest.raises(ValueError, match=message):
            call(replace(make_batch(), **change))


def test_impossible_sizes_and_missing_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"101 samples are odd.*drop_last_sample to True"):
        small(drop_last_sample=False)
    assert small(drop_last_sample=False, contrast=False).dim == 40
    with pytest.raises(ValueError, match="no patch of 200"):
        small(patch=200)
    with pytest.raises(ValueError, match="contrast: true"):
        small(contrast=False).project(make_batch())
    with pytest.raises(ValueError, match="n_classes: null"):
        small(n_classes=None).logits(make_batch().x)


# Contrast


def test_nt_xent_equals_its_definition_row_by_row() -> None:
    first, second = torch.randn(4, 5), torch.randn(4, 5)
    rows = F.normalize(torch.cat([first, second]).double(), dim=1)
    total = 0.0
    for i in range(8):
        like = (rows @ rows[i] / 0.2).exp()
        total -= float((like[(i + 4) % 8] / (like.sum() - like[i])).log()) / 8
    assert float(nt_xent(first, second)) == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(nt_xent(3 * first, second), nt_xent(second, first))


def test_nt_xent_is_small_for_partners_and_of_one_pair_nothing() -> None:
    rows = torch.eye(6)
    assert nt_xent(rows, rows, temperature=0.05) < 1e-6 < nt_xent(rows, rows.roll(1, 0))
    assert nt_xent(rows[:1], rows[1:2]) == 0
    with pytest.raises(ValueError, match="two equal, not empty"):
        nt_xent(rows[:0], rows[:0])
    with pytest.raises(ValueError, match="temperature is 0"):
        nt_xent(rows, rows, temperature=0.0)


def test_contrasts_between_views_and_networks_are_those_of_stacked_rows() -> None:
    f, z = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    views = between_views(list(f), list(z), temperature=0.5)
    expected = [
        nt_xent(torch.cat([f[0], z[0]]), torch.cat([f[i], z[i]]), temperature=0.5) for i in (1, 2)
    ]
    torch.testing.assert_close(views, torch.stack(expected))
    whole = nt_xent(f.flatten(0, 1), z.flatten(0, 1))
    torch.testing.assert_close(between_networks(list(f), list(z)), whole)


# Training


def test_the_loss_is_the_sum_of_classes_and_weighted_contrasts() -> None:
    batch = make_batch(4)
    task = task_of(between_views=0.3, between_networks=0.7).eval()
    found = task.losses(batch)
    expected = found["entropy"] + 0.3 * found["between_views"] + 0.7 * found["between_networks"]
    torch.testing.assert_close(found["loss"].detach(), expected)
    seen = [batch, *(view(batch) for view in task.views)]
    entropies = [F.cross_entropy(task(each), each.y) for each in seen]
    torch.testing.assert_close(found["entropy"], sum(entropies).detach())
    assert seen[3].y.tolist() == [1, 0, 1, 0]
    found["loss"].backward()
    unused = {name for name, p in task.named_parameters() if p.grad is None}
    assert unused == {"model.head.weight", "model.head.bias"}  # the readout is another


def test_the_task_rebuilds_itself_from_its_spec() -> None:
    task, batch = task_of(temperature=0.4).eval(), make_batch(4)
    other = build(spec_of(task)).eval()
    other.load_state_dict(task.state_dict())
    assert torch.equal(other.losses(batch)["loss"], task.losses(batch)["loss"])


def test_models_views_and_batches_that_cannot_be_contrasted_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"DBConformer has no `project`.*without contrast, or use MVCNet"
    ):
        task_of(DBConformer())
    with pytest.raises(ValueError, match="no views"):
        task_of(views=[])
    with pytest.raises(ValueError, match="has no labels"):
        task_of().losses(replace(make_batch(), y=None))


@pytest.mark.parametrize("labels", [["right_hand", "left_hand"], ["left_hand", "feet"]])
def test_views_and_data_must_agree_about_the_classes(
    labels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of()
    data = SimpleNamespace(labels=["left_hand", "right_hand"], n_outputs=2)
    monkeypatch.setattr(DecodeViews, "trainer", SimpleNamespace(datamodule=data))
    task.setup("test")
    data.labels = labels
    with pytest.raises(ValueError, match=r"ReflectChannels knows the classes.*in their order"):
        task.setup("test")


# One contrast alone: together they pull at the two descriptions of a window in opposite directions.
@pytest.mark.parametrize("contrast", ["between_views", "between_networks"])
def test_a_planted_rhythm_is_learned_from_views_and_a_contrast_falls(contrast: str) -> None:
    weights = {"between_views": 0.0, "between_networks": 0.0, contrast: 1.0}
    task = task_of(small(n_classes=None, dropout=0.0), **weights).train()
    optimizer = torch.optim.Adam(task.parameters(), lr=5e-3)
    first = None
    for step in range(20):
        found = task.losses(rhythms(16, step))
        first = found if first is None else first
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    assert found[contrast] < 0.9 * first[contrast]
    task.eval()
    new = rhythms(128, 1000)
    with torch.no_grad():
        assert (task(new).argmax(1) == new.y).float().mean() > 0.9
