"""What is seen inside a network: influences, effects, and callbacks in a training."""

from __future__ import annotations

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.utils.data import DataLoader

from neurofm.interpret.monitoring import (
    Influence,
    choose_coverage,
    compare_familiarity,
    influences,
    massive_effect,
    output_power,
)
from neurofm.tasks import DriftMonitor, MassiveActivationMonitor, NotFiniteMonitor


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.linear(x))


class Net(nn.Module):
    """Tokens through two blocks to three logits; `bias` makes token 0, channel 2 massive."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(dim), Block(dim)])
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(dim, 3)
        self.unused = nn.Linear(dim, dim)
        self.bias = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        push = torch.zeros_like(x)
        push[:, 0, 2] = self.bias
        x = self.blocks[1](x + push)
        self.unused(x.detach())
        return self.head(self.dropout(x).mean(1))


class Toy(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Net()
        self.poison = -1

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        if self.global_step == self.poison:
            self.model.blocks[1].linear.weight.data[0, 0] = float("nan")
        loss = self.model(batch).square().mean()
        if not loss.isfinite():
            raise RuntimeError("the loss is no number")
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.model(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(toy: Toy, folder: Path, *callbacks: lightning.Callback, epochs: int = 2) -> None:
    lightning.seed_everything(0, verbose=False)
    data = torch.randn(12, 4, 6)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )
    loader = DataLoader(data, batch_size=4)
    trainer.fit(toy, loader, loader)


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


# Influences


def test_influences_are_mean_activations_and_their_gradients() -> None:
    torch.manual_seed(0)
    net, x = Net().double().train(), torch.randn(5, 4, 6, dtype=torch.float64)
    net.requires_grad_(False)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    got = influences(net, ["blocks.0", "blocks.1"], run=net, batches=[x[:2], x[2:]])
    net.eval()
    deep = net.blocks[1](net.blocks[0](x)).requires_grad_(True)
    logits = net.head(deep.mean(1))
    loss = -(logits.log_softmax(-1) / 3).sum()
    (gradient,) = torch.autograd.grad(loss, deep)
    np.testing.assert_allclose(got["blocks.1"].activation, deep.detach().mean(1), atol=1e-12)
    np.testing.assert_allclose(got["blocks.1"].gradient, gradient.mean(1), atol=1e-12)
    assert np.abs(got["blocks.0"].gradient).max() > 0  # through the block above
    net.train()
    assert hooks(net) == 0
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())


def test_influences_do_not_depend_on_batches_and_keep_modes() -> None:
    torch.manual_seed(0)
    net, x = Net().train(), torch.randn(7, 4, 6)
    net.blocks[0].eval()
    each = [
        influences(net, ["blocks.1"], run=net, batches=x.split(size), objective=output_power)
        for size in (1, 7)
    ]
    np.testing.assert_allclose(
        each[0]["blocks.1"].gradient, each[1]["blocks.1"].gradient, atol=1e-6
    )
    assert net.training
    assert not net.blocks[0].training


def test_units_of_a_map_are_on_the_axis_that_is_named() -> None:
    net = nn.Sequential(nn.Conv1d(2, 5, 3), nn.Flatten(), nn.Linear(5 * 8, 3))
    got = influences(net, ["0"], run=net, batches=[torch.randn(4, 2, 10)], unit_axis=1)
    assert got["0"].activation.shape == (4, 5)


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        (["blocks.2"], "no module 'blocks.2'.*Did you mean"),
        (["unused"], "nothing of 'unused' reaches the objective"),
    ],
)
def test_sites_without_influence_are_refused(sites: list[str], words: str) -> None:
    net = Net()
    with pytest.raises(ValueError, match=words):
        influences(net, sites, run=net, batches=[torch.randn(2, 4, 6)])
    assert hooks(net) == 0
    with pytest.raises(ValueError, match="no batch"):
        influences(net, ["blocks.0"], run=net, batches=[])


def test_three_scores_are_compared_on_the_same_samples() -> None:
    torch.manual_seed(0)
    net = Net()

    def layer(scale: float, n: int = 60) -> dict[str, Influence]:
        x = scale * torch.randn(n, 4, 6)
        return influences(net, ["blocks.1"], run=net, batches=[x])

    train, inside, distorted, outside = layer(1, 150), layer(1), layer(5), layer(4)
    detector = choose_coverage(train, inside, distorted)
    groups = np.repeat(np.arange(6), 10)
    found = compare_familiarity(
        train, layer(1), outside, detector=detector, inside_groups=groups, outside_groups=groups
    )
    assert list(found.scores) == ["coverage", "Mahalanobis", "neighbour 10"]
    assert found["coverage"].auroc > 0.8
    assert found["coverage"].low > 0.5
    assert found["Mahalanobis"].auroc > 0.9
    assert (
        found.plot().axes[0].get_title(loc="left") == "Familiar or not: 6 familiar, 6 other groups"
    )


# Effects


def test_a_massive_bias_is_needed_and_its_mean_is_enough() -> None:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(8, 4, 6)
    net.bias = 50.0
    with torch.no_grad():
        wanted = net(x)

    def metric() -> float:
        with torch.no_grad():
            return -float((net(x) - wanted).square().mean())

    found = massive_effect(
        net, "blocks.1:input", [(0, 2)], metric=metric, rng=np.random.default_rng(0)
    )
    assert found.intact == 0
    assert found.zero < 20 * found.mean < 0
    assert found.zero < 20 * found.random_zero
    assert found.plot().axes[0].get_ylabel() == "metric"
    assert hooks(net) == 0
    with pytest.raises(ValueError, match="token and channel"):
        massive_effect(net, "blocks.1", [], metric=metric, rng=np.random.default_rng(0))


# Callbacks


def test_massive_activations_are_logged_as_they_grow(tmp_path: Path) -> None:
    toy = Toy()

    class Grow(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            toy.model.bias = 1e5 if trainer.global_step >= 4 else 0.0

    watch = MassiveActivationMonitor(["model.blocks.1:input"], every_n_steps=2)
    fit(toy, tmp_path, Grow(), watch)
    steps = [row["step"] for row in watch.history.rows]
    assert steps == [0, 2, 4]
    found = [row["model.blocks.1:input/massive"] for row in watch.history.rows]
    assert found == [0, 0, 4]  # one in each window
    assert watch.history.rows[2]["model.blocks.1:input/top_ratio"] > 1000
    assert hooks(toy) == 0
    assert len(watch.history.plot().axes) == 3


def test_the_first_site_that_is_not_finite_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toy = Toy()
    toy.poison = 4
    watch = NotFiniteMonitor(["model.blocks.0", "model.blocks.1", "model.head"])
    with pytest.raises(RuntimeError, match="no number"):
        fit(toy, tmp_path, watch)
    assert watch.first == (4, "model.blocks.1")
    assert watch.totals["model.blocks.0"] == (0, 0)
    assert watch.totals["model.blocks.1"][0] == 16
    assert "step 4" in caplog.text
    assert "'model.blocks.1'" in caplog.text
    assert hooks(toy) == 0


def test_watching_changes_no_training(tmp_path: Path) -> None:
    ends = []
    for callbacks in (
        [],
        [
            MassiveActivationMonitor(["model.blocks.0"], every_n_steps=1),
            NotFiniteMonitor(["model.head"]),
            DriftMonitor(["model.blocks.1"]),
        ],
    ):
        torch.manual_seed(3)
        toy = Toy()
        fit(toy, tmp_path, *callbacks)
        ends.append(toy.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_drift_compares_the_same_windows_between_epochs(tmp_path: Path) -> None:
    watch = DriftMonitor(["model.blocks.1"], n_windows=10)
    toy = Toy()
    fit(toy, tmp_path, watch, epochs=3)
    rows = watch.history.rows
    assert len(rows) == 3
    assert "model.blocks.1/cka" not in rows[0]
    assert 0.5 < rows[1]["model.blocks.1/cka"] <= 1 + 1e-6
    assert rows[0]["model.blocks.1/effective_rank"] > 1
    assert watch.history.plot().axes[0].get_xlabel() == "epoch"


def test_monitors_are_built_from_a_recipe() -> None:
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[lightning.Callback])
    written = [
        {"class_path": f"neurofm.tasks.{name}", "init_args": {"sites": ["model.blocks.0"]}}
        for name in ("MassiveActivationMonitor", "NotFiniteMonitor", "DriftMonitor")
    ]
    built = parser.instantiate(parser.parse_object({"callbacks": written})).callbacks
    assert [type(one) for one in built] == [
        MassiveActivationMonitor,
        NotFiniteMonitor,
        DriftMonitor,
    ]


def test_a_site_that_does_not_exist_stops_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"MassiveActivationMonitor: Toy has no module 'blocks.1'"):
        fit(Toy(), tmp_path, MassiveActivationMonitor(["blocks.1"]))
    with pytest.raises(ValueError, match="NotFiniteMonitor: no site"):
        NotFiniteMonitor([])
    with pytest.raises(ValueError, match="expected 1 up"):
        NotFiniteMonitor(["a"], every_n_steps=0)
