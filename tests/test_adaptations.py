"""What learns and what rests, at which rate, and where probes are solved at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fits import changed, decode_data, fit, state
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedKFold
from torch import nn
from training_tasks import meg_gpt, mirepnet, patch_transformer

from neurofm.evaluate.probing import LinearProbe, RidgeProbe, ridge
from neurofm.models import FunctionalNetwork, MVCNet
from neurofm.nn.functional_layers import FunctionalConv
from neurofm.readouts import LatentMLP, PooledLinear
from neurofm.tasks import Decode, Full, LayerwiseDecay, Partial, Probe, TwoStage
from neurofm.tasks.adaptations.layers import block_lists, layer_numbers

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
]


class Watch(Callback):
    """Rates, and which parameters had moved, before every step."""

    def __init__(self, task: Decode) -> None:
        self.first = state(task)
        self.rates: list[dict[str, float]] = []
        self.moved: list[set[str]] = []
        self.modes: list[bool] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        names = {id(p): name for name, p in pl_module.named_parameters()}
        groups = trainer.optimizers[0].param_groups
        self.rates.append({names[id(p)]: g["lr"] for g in groups for p in g["params"]})
        self.moved.append(changed(pl_module, self.first))
        self.modes.append(pl_module.model.training)


def of_model(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("model.")}


# Parts


def test_full_is_what_happens_without_an_adaptation(small, model, tmp_path):
    begin = state(model)
    ends = []
    for adapt in (None, Full()):
        model.load_state_dict(begin)
        torch.manual_seed(0)
        task = Decode(model, n_outputs=2, adapt=adapt)
        fit(task, decode_data(small), tmp_path, limit_train_batches=2)
        ends.append(state(task))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_only_parameters_that_fit_a_pattern_learn(small, model, tmp_path):
    task = Decode(model, n_outputs=2, adapt=Partial(["blocks.0.feedforward.*"]), backbone_lr=1.0)
    before = state(task)
    fit(task, decode_data(small), tmp_path, limit_train_batches=2)
    moved = changed(task, before)
    assert of_model(moved) and all("blocks.0.feedforward." in name for name in of_model(moved))
    rest = {n for n, p in task.model.named_parameters() if not p.requires_grad}
    assert all(dict(task.model.named_parameters())[name].grad is None for name in rest)


def test_a_pattern_without_a_parameter_names_near_ones():
    with pytest.raises(ValueError, match=r"'blocks.0.atention\*' fits none.*blocks.0.attention"):
        Partial(["blocks.0.atention*"]).prepare(mirepnet())


def test_statistics_of_a_frozen_batch_norm_stay():
    task = Decode(mirepnet(), n_outputs=2, adapt=Partial(["blocks.*"])).train()
    assert task.model.training and not task.model.tokenizer.norm.training
    assert Decode(mirepnet(), n_outputs=2).train().model.tokenizer.norm.training


# Two stages


def test_the_readout_learns_first_and_then_everything(small, model, tmp_path):
    task = Decode(model, n_outputs=2, adapt=TwoStage(steps=3, lr=1e-2), lr=1e-3, backbone_lr=0.5)
    watch = Watch(task)
    fit(task, decode_data(small), tmp_path, watch, max_epochs=2)
    moved = [bool(of_model(names)) for names in watch.moved]
    assert moved == [False] * 4 + [True] * (len(moved) - 4)
    assert {"readout.linear.weight"} <= watch.moved[1]
    # Looked at before the task is told of the step.
    assert watch.modes == [True, *[False] * 3, *[True] * (len(moved) - 4)]
    readout = [rate["readout.linear.weight"] for rate in watch.rates]
    own = [rate["model.blocks.0.feedforward.0.weight"] for rate in watch.rates]
    assert max(readout[:3]) == pytest.approx(1e-2) and max(readout[3:]) == pytest.approx(1e-3)
    assert own[:3] == [0, 0, 0] and own[3:] == pytest.approx([0.5 * r for r in readout[3:]])
    assert all(p.requires_grad for n, p in model.named_parameters() if "tokenizer" not in n)


def test_a_first_stage_of_epochs_and_one_too_long(small, model, tmp_path):
    task = Decode(model, n_outputs=2, adapt=TwoStage(epochs=1))
    watch = Watch(task)
    fit(task, decode_data(small), tmp_path, watch, max_epochs=2)
    assert [bool(of_model(names)) for names in watch.moved] == [False] * 4 + [True] * 2
    with pytest.raises(ValueError, match="takes 3 of 3 steps"):
        fit(Decode(model, n_outputs=2, adapt=TwoStage(epochs=1)), decode_data(small), tmp_path)
    with pytest.raises(ValueError, match="expected one of them"):
        TwoStage(steps=3, epochs=1)


@pytest.mark.parametrize("step", [2, 4])
def test_two_stages_resume_bit_by_bit_in_either(step, small, model, tmp_path):
    begin = state(model)

    def run(*callbacks: Callback, **changes: Any) -> tuple[Any, Decode]:
        model.load_state_dict(begin)
        torch.manual_seed(1)
        task = Decode(model, n_outputs=2, adapt=TwoStage(steps=3), lr=3e-3)
        return fit(task, decode_data(small), tmp_path, *callbacks, max_epochs=2, **changes), task

    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    whole, task = run(keep)
    end = state(task)
    rest, again = run(ckpt_path=tmp_path / f"step={step}.ckpt")
    assert rest.losses == whole.losses[step:] and changed(again, end) == set()


# Rates of layers


def test_rates_fall_with_the_distance_from_the_readout():
    model = patch_transformer()
    task = Decode(model, n_outputs=2, adapt=LayerwiseDecay(0.5), backbone_lr=0.2)
    rate = {
        id(p): f
        for part, f in task.rates()
        for p in getattr(part, "parameters", lambda p=part: p)()
    }
    named = {name: rate[id(p)] for name, p in task.named_parameters()}
    assert named["readout.linear.weight"] == 1.0
    assert named["model.norm.weight"] == pytest.approx(0.2)
    assert named["model.blocks.1.out.weight"] == pytest.approx(0.2 * 0.5)
    assert named["model.blocks.0.out.weight"] == pytest.approx(0.2 * 0.25)
    before = {"model.tokenizer.linear.weight", "model.place.kind.weight", "model.mask_token"}
    assert [named[name] for name in before] == pytest.approx([0.2 * 0.125] * 3)
    assert len(rate) == len(list(task.parameters()))


def test_branches_are_numbered_each_by_itself():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = branch(3), branch(1)
            self.join = nn.Linear(2, 2)

    def branch(depth: int) -> nn.Module:
        part = nn.Module()
        part.stem = nn.Linear(2, 2)
        part.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(depth))
        return part

    found = layer_numbers(Branches())
    number = {name.removesuffix(".weight"): n for name, n in found.items() if "weight" in name}
    assert number == {
        **{"left.stem": 4, "left.blocks.0.0": 3, "left.blocks.1.0": 2, "left.blocks.2.0": 1},
        **{"right.stem": 2, "right.blocks.0.0": 1, "join": 0},
    }


@pytest.mark.parametrize(
    ("make", "lists"),
    [(meg_gpt, {"layers": 2}), (mirepnet, {"blocks": 1}), (patch_transformer, {"blocks": 2})],
)
def test_blocks_are_found(make, lists):
    assert block_lists(make()) == lists


def test_functional_layers_count_and_a_model_without_blocks_is_an_error():
    network = FunctionalNetwork([FunctionalConv(6, 4, n_functions=2, resolution=5)], sfreq=64.0)
    assert block_lists(network) == {"layers": 1}
    plain = MVCNet(n_channels=6, n_times=128, sfreq=64.0, patch=16, kernel=7, contrast=False)
    with pytest.raises(ValueError, match=r"MVCNet has no list of blocks.*`Full`"):
        Decode(plain, n_outputs=2, adapt=LayerwiseDecay())
    with pytest.raises(ValueError, match=r"'block' fits none.*Near it are blocks"):
        LayerwiseDecay(blocks=["block"]).prepare(mirepnet())


# Probes solved at once


def features(n: int = 60, dim: int = 8, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    counts = [n // 2, n - n // 2] if classes == 2 else [n // 2, n // 3, n - n // 2 - n // 3]
    y = np.repeat(np.arange(classes), counts)
    x = rng.normal(size=(n, dim)) * rng.uniform(0.1, 30, dim) + 5
    x[:, :classes] += 60 * np.eye(classes)[y]
    return x, y


def test_ridge_is_that_of_scikit_learn():
    x, y = features()
    weight = 1 / np.bincount(y)[y] * len(y) / 3
    for penalty, (found, bias) in zip((0.3, 7.0), ridge(x, y, 3, (0.3, 7.0)), strict=True):
        known = Ridge(alpha=penalty).fit(x, np.eye(3)[y], sample_weight=weight)
        np.testing.assert_allclose(found, known.coef_, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(bias, known.intercept_, rtol=1e-9)


def test_ridge_is_the_limit_of_training_by_gradients():
    x, y = features()
    probe = RidgeProbe().fit(x, y)
    z = torch.from_numpy((x - probe.mean_) * probe.scale_)
    wanted = torch.eye(3, dtype=torch.float64)[torch.from_numpy(y)]
    share = torch.from_numpy(1 / np.bincount(y)[y] * len(y) / 3).unsqueeze(1)
    layer = nn.Linear(x.shape[1], 3).double()
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=500, tolerance_grad=1e-10)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (share * (layer(z) - wanted) ** 2).sum()
        value = value + probe.penalty_ * layer.weight.square().sum()
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(loss)
    np.testing.assert_allclose(layer.weight.detach(), probe.coef_, atol=1e-5)
    np.testing.assert_allclose(layer.bias.detach(), probe.intercept_, atol=1e-5)


def test_the_penalty_of_ridge_has_the_least_error_on_held_out_training_windows():
    x, y = features()
    x[:, 3:] = np.random.default_rng(1).normal(size=x[:, 3:].shape)
    probe = RidgeProbe(penalties=(1e-6, 3.0, 1e6), seed=2).fit(x, y)
    z = (x - probe.mean_) * probe.scale_
    errors = []
    for penalty in probe.penalties:
        total = 0.0
        for train, test in StratifiedKFold(5, shuffle=True, random_state=2).split(z, y):
            own = 1 / np.bincount(y[train])[y[train]] * len(train) / 3
            made = Ridge(alpha=penalty).fit(z[train], np.eye(3)[y[train]], sample_weight=own)
            each = ((made.predict(z[test]) - np.eye(3)[y[test]]) ** 2).sum(1)
            total += (each / np.bincount(y)[y[test]]).sum()
        errors.append(total)
    assert probe.penalty_ == probe.penalties[int(np.argmin(errors))]
    p = probe.predict_proba(x)
    assert np.allclose(p.sum(1), 1) and (p.argmax(1) == y).mean() > 0.9


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", [LinearProbe, RidgeProbe])
def test_the_linear_map_of_raw_features_gives_the_probabilities(kind, classes):
    x, y = features(classes=classes)
    probe = kind()
    weight, bias = probe.linear_map(x, y)
    logits = torch.from_numpy(x @ weight.T + bias)
    np.testing.assert_allclose(logits.softmax(1), probe.predict_proba(x), atol=1e-9)


@pytest.mark.parametrize("kind", [LinearProbe, RidgeProbe])
def test_features_that_are_not_finite_are_named_and_constant_ones_left_out(kind):
    x, y = features(classes=2)
    x[:, 1] = 2.5
    assert kind().linear_map(x, y)[0][:, 1].tolist() == [0.0, 0.0]
    x[3, 0] = np.nan
    with pytest.raises(ValueError, match=f"features of 1 of {len(x)} windows .* window 3"):
        kind().fit(x, y)


@pytest.mark.parametrize("kind", [LinearProbe, RidgeProbe])
def test_a_solved_readout_is_the_estimator_and_does_not_move(kind, small, model, tmp_path):
    task = Decode(model, n_outputs=2, adapt=Probe(kind()), lr=1.0)
    watch, data = Watch(task), decode_data(small)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    fit(task, data, tmp_path, watch, keep, max_epochs=1)
    assert of_model(watch.moved[-1]) == set()
    batch = data.windows.batch(data.split.train)
    with torch.no_grad():
        x = model.encode(batch).pooled().double().numpy()
        found = task.eval()(batch).softmax(1).numpy()
    known = kind().fit(x, batch.y.numpy()).predict_proba(x)
    np.testing.assert_allclose(found, known, atol=1e-4)
    loaded = Decode.load_from_checkpoint(next(tmp_path.glob("*.ckpt")))
    assert torch.equal(loaded.readout.linear.weight, task.readout.linear.weight)


def test_a_readout_of_several_layers_cannot_be_solved(small, model, tmp_path):
    readout = LatentMLP(model.dim, 2, n_sources=model.n_sources)
    task = Decode(model, n_outputs=2, readout=readout, adapt=Probe(RidgeProbe()))
    with pytest.raises(ValueError, match="LatentMLP is no single linear map"):
        fit(task, decode_data(small), tmp_path)
    three = Decode(
        model, n_outputs=3, readout=PooledLinear(model.dim, 3), adapt=Probe(RidgeProbe())
    )
    labels = ["left_hand", "right_hand", "never"]
    with pytest.raises(ValueError, match=r"classes .'never'.; on all sides .* never 0"):
        fit(three, decode_data(small, labels=labels), tmp_path)


# Few shots


def test_the_first_windows_of_each_class_train_and_later_ones_test(small):
    data = decode_data(small, first_per_class=2, validate=0.1, test=0.1)
    data.setup()
    sides = {}
    for side in ("train", "test"):
        sides[side] = [data.rows[i] for i in getattr(data.split, side)]
    for subject in {row.subject for row in data.rows}:
        for label in ("left_hand", "right_hand"):
            own = [
                {
                    (row.run, row.start)
                    for row in rows
                    if (row.subject, row.label) == (subject, label)
                }
                for rows in sides.values()
            ]
            assert len(own[0]) == 2 and max(own[0]) < min(own[1])
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match="leave `validate` and `test` out"):
        decode_data(small, first_per_class=2, validate=["1"], test=["2"]).setup()
