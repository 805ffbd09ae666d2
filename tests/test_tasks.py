"""Tasks: what is trained and what is not, and what is logged."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fits import changed, decode_data, fit, state, task_and_data, trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from neurofm.batch import Batch
from neurofm.readouts import LatentMLP
from neurofm.tasks import Decode, Pretrain, Probe, Task, TokenCache, TrainTokenizer
from neurofm.tasks.tokenizer import some_channels

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
]


# TrainTokenizer


class Logged(Callback):
    """Every metric at the end of each training epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_validation_end(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            self.validated = {k: float(v) for k, v in trainer.callback_metrics.items()}

    def on_train_end(self, trainer, pl_module) -> None:
        self.epochs.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def test_a_tokenizer_learns_and_its_code_book_moves(small, tmp_path, monkeypatch):
    tokenizer = small.tokenizer()
    assert not tokenizer.training
    task = TrainTokenizer(tokenizer, lr=1e-2, betas=(0.9, 0.99), eps=1e-8)
    data = small.data()
    data.setup()
    batch = data.windows.batch

    def planted(indices: Any) -> Batch:
        found = batch(indices)
        time = found.onset[:, None] + torch.arange(found.x.shape[2]) / found.sfreq
        found.x[:] += 200 * torch.sin(2 * torch.pi * 10 * time).float()[:, None]
        return found

    monkeypatch.setattr(data.windows, "batch", planted)
    before, logged = state(tokenizer), Logged()
    seen = fit(task, data, tmp_path, logged, max_epochs=6)
    assert np.mean(seen.losses[-7:]) < 0.9 * np.mean(seen.losses[:2])
    assert {"quantizer.levels.0.codebook", "quantizer.levels.1.count"} <= changed(tokenizer, before)
    final = logged.epochs[-1]
    for stage in ("train", "validate"):
        assert 1 < final[f"{stage}/codebook_perplexity"] <= 32
        assert final[f"{stage}/codebook_dead"] == pytest.approx(
            32 * (1 - final[f"{stage}/codebook_usage"])
        )


def test_the_code_book_starts_from_training_windows(small, tmp_path):
    """Lightning validates two batches before the first step."""
    task = TrainTokenizer(small.tokenizer())

    class Look(Callback):
        def on_train_start(self, trainer, pl_module) -> None:
            self.initialized = pl_module.tokenizer.quantizer.initialized

    look = Look()
    fit(task, small.data(), tmp_path, look, limit_train_batches=1, num_sanity_val_steps=2)
    assert not look.initialized and task.tokenizer.quantizer.initialized


def test_what_has_no_loss_is_not_trained(small):
    class Fixed(nn.Module):
        dim = n_codes = 4

        def forward(self, batch: Batch) -> Any:
            return None

    with pytest.raises(ValueError, match="Fixed has no `loss`"):
        TrainTokenizer(Fixed())
    with pytest.raises(ValueError, match="n_channels is 0"):
        TrainTokenizer(small.tokenizer(), n_channels=0)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_some_channels_leaves_every_window_a_real_one(small, n):
    data = small.data()
    data.setup()
    batch = data.windows.batch(range(4))
    mask = torch.tensor(
        [[1] * 6, [1] * 6, [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]], dtype=torch.bool
    )
    batch = replace(batch, channel_mask=mask, x=batch.x * mask.unsqueeze(-1))
    for seed in range(30):
        torch.manual_seed(seed)
        part = some_channels(batch, n)
        assert part.x.shape[1] == part.kind.shape[1] == part.position.shape[1] == n
        assert part.channel_mask.any(1).all()
    torch.manual_seed(0)
    full = replace(batch, channel_mask=torch.ones_like(mask))
    chosen = {tuple(some_channels(full, n).position[0, :, 0].tolist()) for _ in range(20)}
    assert len(chosen) > 1
    assert some_channels(batch, 6) is batch


def test_some_channels_draws_from_all_of_a_window_beside_a_smaller_one(small):
    data = small.data()
    data.setup()
    batch = data.windows.batch(range(2))
    mask = torch.tensor([[True] * 6, [True, True, False, False, False, False]])
    x = torch.arange(6.0).repeat(2, 1).unsqueeze(-1).expand_as(batch.x) + 1
    batch = replace(batch, channel_mask=mask, x=x * mask.unsqueeze(-1))
    torch.manual_seed(0)
    parts = [some_channels(batch, 3) for _ in range(60)]
    seen = [{int(v) for part in parts for v in part.x[i, :, 0].tolist()} for i in range(2)]
    assert seen == [{1, 2, 3, 4, 5, 6}, {0, 1, 2}]
    for part in parts:
        assert part.channel_mask.sum(1).tolist() == [3, 2]
        assert torch.equal(part.channel_mask, part.x[:, :, 0] > 0)


# Pretrain


def plant(task: Any, model: Any, code_of: Any) -> None:
    """Give all tokens of a window one code, each code a vector of its own."""
    table = torch.randn(32, model.tokenizer.dim, generator=torch.Generator().manual_seed(1))

    def tokenize(batch: Batch) -> Any:
        tokens = model.tokenize(batch)
        codes = code_of(batch)[:, None, None].expand(tokens.codes.shape).contiguous()
        return replace(tokens, codes=codes, values=table[codes[..., 0]])

    task._cache = TokenCache(tokenize, limit_gb=0.0)


@pytest.mark.system
def test_pretraining_beats_the_unigram_entropy_of_planted_codes(small, model, tmp_path):
    """All tokens of a window have one code, drawn anew: context tells it, frequency does not."""
    task = Pretrain(model, lr=3e-2, warmup=0.05)
    generator = torch.Generator().manual_seed(0)
    plant(task, model, lambda batch: torch.randint(8, (len(batch),), generator=generator))
    logged = Logged()
    seen = fit(task, small.data(), tmp_path, logged, max_epochs=15)
    final = logged.epochs[-1]
    assert seen.losses[0] > math.log(32) - 0.2
    assert final["validate/loss"] < final["validate/unigram_entropy"] - 0.5


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("levels", [1, 2])
def test_unigram_entropy_is_that_of_the_codes_the_model_predicts(cached, levels, small, tmp_path):
    model = small.model(num_quantizers_used=levels)
    logged = Logged()
    data = small.data()
    task = Pretrain(model, cache_tokens=cached)
    fit(task, data, tmp_path, logged, limit_train_batches=1)
    codes = []
    for batch in data.val_dataloader():
        tokens = model.tokenize(batch)
        codes.append(tokens.codes[tokens.mask].numpy())
    direct = []
    for level in range(levels):
        share = np.bincount(np.concatenate(codes)[:, level]) / len(np.concatenate(codes))
        direct.append(-sum(p * math.log(p) for p in share if p))
    assert logged.epochs[-1]["validate/unigram_entropy"] == pytest.approx(np.mean(direct), 1e-4)


@pytest.mark.parametrize("kind", ["pretrain", "decode"])
def test_the_tokenizer_stays_as_it_was(kind, small, model, tmp_path):
    before, whole = state(model.tokenizer), state(model)
    task, data = task_and_data(kind, small, model)
    fit(task, data, tmp_path)
    assert changed(model.tokenizer, before) == set()
    assert "blocks.0.feedforward.0.weight" in changed(model, whole) or changed(model, whole)
    assert not model.tokenizer.training


def test_validation_scores_are_the_same_each_time(small, model, tmp_path):
    """Masks are drawn, but the same ones for the same batch, in a fit and outside."""
    data, task = small.data(), Pretrain(model, lr=0.0, weight_decay=0.0)
    logged = Logged()
    fit(task, data, tmp_path, logged, max_epochs=2)
    inside = logged.validated["validate/loss"]
    torch.manual_seed(99)
    runner = trainer(tmp_path)
    runner.validate(task, datamodule=data, verbose=False)
    assert float(runner.callback_metrics["validate/loss"]) == pytest.approx(inside, rel=1e-6)


def test_pretrain_predicts_nothing(small, model, tmp_path):
    with pytest.raises(ValueError, match=r"Pretrain predicts no labels; use a recipe of Decode"):
        trainer(tmp_path).predict(Pretrain(model), datamodule=small.data())


# Decode


def test_classes_and_labels_must_agree(small, model, tmp_path):
    with pytest.raises(ValueError, match=r"n_outputs is 3, but the data have 2 labels"):
        fit(Decode(model, n_outputs=3), decode_data(small), tmp_path)
    with pytest.raises(ValueError, match=r"n_outputs is 2, but the data have 0 labels"):
        fit(Decode(model, n_outputs=2), small.data(), tmp_path)
    with pytest.raises(ValueError, match="the readout has 4 outputs, n_outputs is 2"):
        Decode(model, n_outputs=2, readout=LatentMLP(model.dim, 4, n_sources=4))
    data = small.data()
    data.setup()
    with pytest.raises(ValueError, match="no labels; set `labels`"):
        Decode(model, n_outputs=2).step(data.windows.batch([0]), "train")


def test_a_probe_trains_its_readout_alone(small, model, tmp_path):
    task = Decode(model, n_outputs=2, adapt=Probe())
    before, readout = state(model), state(task.readout)
    modes = []

    class Mode(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            modes.append((pl_module.training, pl_module.model.training))

    fit(task, decode_data(small), tmp_path, Mode())
    assert changed(model, before) == set()
    assert changed(task.readout, readout) == {"linear.weight", "linear.bias"}
    assert set(modes) == {(True, False)}


def test_fine_tuning_changes_model_and_readout(small, model, tmp_path):
    task = Decode(model, n_outputs=2)
    before = state(task)
    fit(task, decode_data(small), tmp_path)
    moved = changed(task, before)
    assert any(key.startswith("model.blocks.0") for key in moved)
    assert "readout.linear.weight" in moved


def test_decoding_learns_a_planted_class(small, model, tmp_path):
    data = decode_data(small)
    task = Decode(model, n_outputs=2, lr=2e-2)
    plant(task, model, lambda batch: batch.y)
    fit(task, data, tmp_path, max_epochs=5)
    runner = trainer(tmp_path)
    runner.test(task, datamodule=data, verbose=False)
    assert float(runner.callback_metrics["test/balanced_accuracy"]) == 1.0


# Optimiser and schedule


class Rates(Callback):
    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def test_readout_and_backbone_have_their_rates_and_vectors_do_not_decay(small, model, tmp_path):
    task = Decode(model, n_outputs=2, lr=1e-2, backbone_lr=0.2, warmup=0.4)
    rates = Rates()
    fit(task, decode_data(small, batch_size=6), tmp_path, rates, max_epochs=2)
    groups = task.optimizers().param_groups
    trained = [p for p in task.parameters() if p.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(trained)
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
        own = {id(p) for p in task.readout.parameters()}
        readout = {id(p) in own for p in group["params"]}
        assert readout == {group["initial_lr"] == 1e-2}
        assert group["initial_lr"] in (1e-2, pytest.approx(2e-3))
    # 10 steps, 4 of them rising from a tenth of the peak, then half a cosine towards a tenth
    peak = np.array(rates.rates)[:, 0] / 1e-2
    assert peak[:5] == pytest.approx([0.1, 0.325, 0.55, 0.775, 1.0])
    cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(6)]
    assert peak[4:] == pytest.approx(cosine)
    assert np.array(rates.rates)[:, -1] == pytest.approx(peak * 2e-3)


def test_parameters_a_model_lists_do_not_decay():
    class Special(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.weight = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))

        def no_decay(self) -> list[nn.Parameter]:
            return [self.table]

    task = Task(lr=1.0)
    task.part = Special()
    decays = {id(p): group["weight_decay"] for group in task.groups() for p in group["params"]}
    assert decays == {id(task.part.table): 0.0, id(task.part.weight): 0.05}


def test_a_run_without_end_is_refused(small, model, tmp_path):
    with pytest.raises(ValueError, match=r"Set trainer\.max_epochs or trainer\.max_steps"):
        fit(Pretrain(model), small.data(), tmp_path, max_epochs=-1)
