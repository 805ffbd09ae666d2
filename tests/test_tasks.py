"""Tasks: what is trained and what is not, what is logged, and runs that resume bit by bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from neurofm.batch import Batch
from neurofm.io import load_model, load_tokenizer
from neurofm.readouts import LatentMLP
from neurofm.tasks import Decode, Pretrain, Task, TokenCache, TrainTokenizer
from neurofm.tasks.tokenizer import some_channels

LABELS = ["left_hand", "right_hand"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
]


class Losses(Callback):
    """Losses of training steps, and which windows they saw."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.windows: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]))
        self.windows += zip(batch.recording.tolist(), batch.onset.tolist(), strict=True)


def trainer(folder: Path, *callbacks: Callback, **changes: Any) -> lightning.Trainer:
    arguments: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "default_root_dir": folder,
    }
    return lightning.Trainer(callbacks=list(callbacks), **arguments | changes)


def fit(task: Task, data: Any, folder: Path, *callbacks: Callback, **changes: Any) -> Losses:
    seen = Losses()
    resume = changes.pop("ckpt_path", None)
    runner = trainer(folder, seen, *callbacks, **changes)
    lightning.seed_everything(5, verbose=False)
    runner.fit(task, datamodule=data, ckpt_path=resume)
    return seen


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {
        key for key, value in module.state_dict().items() if not torch.equal(value, before[key])
    }


@pytest.fixture(scope="module")
def _started(small) -> dict[str, Any]:
    """One model, and the state every test begins with."""
    model = small.model()
    return {"state": state(model)}


@pytest.fixture
def model(small, _started) -> Any:
    model = small.model()
    model.load_state_dict(_started["state"])
    return model


def decode_data(small, **changes: Any) -> Any:
    return small.data(**{"labels": LABELS, "window_s": 2.0, "offset_s": 0.5} | changes)


def task_and_data(kind: str, small, model: Any) -> tuple[Task, Any]:
    torch.manual_seed(1)
    if kind == "pretrain":
        return Pretrain(model, lr=3e-3), small.data()
    if kind == "decode":
        readout = LatentMLP(model.dim, 2, n_sources=model.n_sources, dropout=0.3)
        return Decode(model, n_outputs=2, readout=readout, lr=3e-3), decode_data(small)
    return TrainTokenizer(small.tokenizer(), lr=2e-3, n_channels=4), small.data()


# Resuming


# Inside the first epoch of 7 steps, inside the second, and inside the second of 3 steps.
@pytest.mark.parametrize(("kind", "step"), [("tokenizer", 2), ("pretrain", 9), ("decode", 5)])
def test_a_resumed_run_takes_the_same_steps_bit_by_bit(kind, step, small, model, tmp_path):
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    begin = state(model)
    task, data = task_and_data(kind, small, model)
    whole = fit(task, data, tmp_path, keep, max_epochs=2)
    end = state(task)

    model.load_state_dict(begin)
    again, data = task_and_data(kind, small, model)
    file = tmp_path / f"step={step}.ckpt"
    rest = fit(again, data, tmp_path, max_epochs=2, ckpt_path=file)
    assert len(rest.losses) == len(whole.losses) - step
    assert rest.windows == whole.windows[step * 8 :]
    assert rest.losses == whole.losses[step:]
    assert changed(again, end) == set()


@pytest.mark.parametrize("limit", [1.0, 3])
def test_a_checkpoint_at_the_end_of_an_epoch_continues_with_the_next(limit, small, model, tmp_path):
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    begin = state(model)
    whole = fit(
        Pretrain(model), small.data(), tmp_path, keep, max_epochs=3, limit_train_batches=limit
    )
    end = state(model)
    model.load_state_dict(begin)
    rest = fit(
        Pretrain(model),
        small.data(),
        tmp_path,
        max_epochs=3,
        limit_train_batches=limit,
        ckpt_path=tmp_path / "epoch=0.ckpt",
    )
    per_epoch = len(whole.losses) // 3
    assert rest.losses == whole.losses[per_epoch:]
    assert rest.windows == whole.windows[per_epoch * 8 :]
    assert changed(model, end) == set()


def test_a_run_stopped_inside_an_epoch_continues_there(small, model, tmp_path):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_: Any) -> None:
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "stopped.ckpt")
                trainer.should_stop = True

    begin = state(model)
    whole = fit(Decode(model, n_outputs=2), decode_data(small), tmp_path, max_epochs=3)
    runs = []
    for callbacks, file in (([Stop()], None), ([], tmp_path / "stopped.ckpt")):
        model.load_state_dict(begin)
        torch.manual_seed(0)
        task = Decode(model, n_outputs=2)
        runs.append(
            fit(task, decode_data(small), tmp_path, *callbacks, max_epochs=3, ckpt_path=file)
        )
    assert [len(run.losses) for run in runs] == [4, 5]
    assert runs[0].windows + runs[1].windows == whole.windows


def test_the_same_seed_gives_the_same_losses_and_another_does_not(small, model, tmp_path):
    begin = state(model)
    runs = []
    for _ in range(2):
        model.load_state_dict(begin)
        runs.append(fit(Pretrain(model), small.data(), tmp_path, limit_train_batches=3))
    assert runs[0].losses == runs[1].losses
    model.load_state_dict(begin)
    other = fit(Pretrain(model), small.data(seed=1), tmp_path, limit_train_batches=3)
    assert other.losses != runs[0].losses


# Checkpoints


def checkpoint(task: Task, data: Any, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    keep = ModelCheckpoint(folder, "best", monitor="validate/loss", save_last=True)
    fit(task, data, folder, keep, limit_train_batches=2)
    return folder / "best.ckpt"


def test_a_checkpoint_holds_plain_data_and_rebuilds_the_task(small, model, tmp_path):
    task = Decode(model, n_outputs=2, readout=LatentMLP(model.dim, 2, n_sources=4), lr=1e-3)
    data = decode_data(small)
    file = checkpoint(task, data, tmp_path)
    content = torch.load(file, weights_only=True)
    assert content["task"] == "neurofm.tasks.Decode"
    assert content["hyper_parameters"]["readout"]["class_path"] == "neurofm.readouts.LatentMLP"
    for cls in (Task, Decode):
        loaded = cls.load_from_checkpoint(file)
        assert isinstance(loaded, Decode) and not loaded.training and loaded.lr == 1e-3
        batch = next(iter(data.test_dataloader()))
        with torch.no_grad():
            assert torch.equal(loaded(batch), task.eval()(batch))


def test_backbone_and_tokenizer_are_loaded_from_file_or_folder(small, model, tmp_path):
    file = checkpoint(Pretrain(model), small.data(), tmp_path / "version_0" / "checkpoints")
    for name in (file, tmp_path, str(tmp_path)):
        loaded = load_model(name)
        assert changed(loaded, state(model)) == set() and not loaded.training
        assert changed(load_tokenizer(name), state(model.tokenizer)) == set()


def test_a_model_card_takes_a_trained_tokenizer(small, tmp_path):
    task = TrainTokenizer(small.tokenizer())
    file = checkpoint(task, small.data(), tmp_path)
    assert changed(load_tokenizer(file), state(task.tokenizer)) == set()
    built = load_model(small.folder / "model.yaml", tokenizer=tmp_path)
    assert changed(built.tokenizer, state(task.tokenizer)) == set()
    assert not any(p.requires_grad for p in built.tokenizer.parameters())
    with pytest.raises(ValueError, match="brings its own weights"):
        load_model(file, tokenizer=tmp_path)
    with pytest.raises(ValueError, match=r"holds a BrainTokenizer, which is no brain model"):
        load_model(file)


def test_the_newest_version_of_a_run_is_loaded(small, model, tmp_path):
    first = tmp_path / "version_0" / "checkpoints"
    checkpoint(Pretrain(model), small.data(), first)
    old = state(model)
    second = tmp_path / "version_1" / "checkpoints"
    checkpoint(Pretrain(model), small.data(), second)
    assert changed(load_model(tmp_path), state(model)) == set()
    (second / "best.ckpt").unlink()  # a run without validation has no best
    assert changed(load_model(tmp_path), old) != set()
    assert changed(load_model(tmp_path), state(model)) == set()


def test_a_folder_without_checkpoint_names_the_recipe_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neurofm fit --config pretrain_simulated"):
        load_model(tmp_path / "runs" / "pretrain_simulated")


def test_the_checkpoint_of_another_task_is_refused(small, model, tmp_path):
    file = checkpoint(Pretrain(model), small.data(), tmp_path)
    with pytest.raises(ValueError, match=r"written by neurofm\.tasks\.Pretrain, not by.*Decode"):
        fit(Decode(model, n_outputs=2), decode_data(small), tmp_path, ckpt_path=file)
    with pytest.raises(ValueError, match=r"holds a neurofm\.tasks\.Pretrain, not a Decode"):
        Decode.load_from_checkpoint(file)


def test_a_cut_off_checkpoint_and_a_stranger_are_named(small, model, tmp_path):
    file = checkpoint(Pretrain(model), small.data(), tmp_path)
    file.write_bytes(file.read_bytes()[:5000])
    for load in (Task.load_from_checkpoint, load_model, load_tokenizer):
        with pytest.raises(ValueError, match=r"best\.ckpt: not a readable torch file.*5000 bytes"):
            load(file)
    torch.save({"state_dict": {}}, file)
    with pytest.raises(ValueError, match="not a checkpoint of one of neurofm's tasks"):
        Task.load_from_checkpoint(file)


def test_a_checkpoint_in_mid_epoch_refuses_other_batches(small, model, tmp_path):
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    fit(Pretrain(model), small.data(), tmp_path, keep)
    with pytest.raises(ValueError, match="batch_size 8 is now 4"):
        fit(
            Pretrain(model),
            small.data(batch_size=4),
            tmp_path,
            max_epochs=2,
            ckpt_path=tmp_path / "step=2.ckpt",
        )


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
    task = Decode(model, n_outputs=2, freeze=True)
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
    decays = {id(p): group["weight_decay"] for group in task._groups() for p in group["params"]}
    assert decays == {id(task.part.table): 0.0, id(task.part.weight): 0.05}


def test_a_run_without_end_is_refused(small, model, tmp_path):
    with pytest.raises(ValueError, match=r"Set trainer\.max_epochs or trainer\.max_steps"):
        fit(Pretrain(model), small.data(), tmp_path, max_epochs=-1)


# TokenCache


@pytest.fixture
def windows(small) -> Iterator[Any]:
    data = small.data()
    data.setup()
    yield data.windows


def same(one: Any, other: Any) -> None:
    for name in ("codes", "mask", "channel", "time"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    torch.testing.assert_close(one.values, other.values)


def test_cached_tokens_are_those_of_any_batch(model, windows):
    calls = []

    def tokenize(batch: Batch) -> Any:
        calls.append(len(batch))
        return model.tokenize(batch)

    cache = TokenCache(tokenize)
    for indices in ([0, 1, 2], [2, 5], [5, 1, 0, 2]):
        batch = windows.batch(indices)
        same(cache(batch).tokens, model.tokenize(batch))
    assert calls == [1] * 4 and len(cache) == 4
    first = cache(windows.batch([1, 2])).tokens.values
    assert torch.equal(first, cache(windows.batch([2, 1])).tokens.values.flip(0))
    cache.clear()
    assert len(cache) == cache.bytes == 0


def test_padding_in_a_batch_does_not_reach_the_cache(model, windows):
    batch = windows.batch([3, 4])
    mask = batch.channel_mask.clone()
    mask[0, 4:] = False
    short = replace(batch, channel_mask=mask, x=batch.x * mask.unsqueeze(-1))
    seen = []
    cache = TokenCache(lambda b: seen.append(b.x.shape[1]) or model.tokenize(b))
    same(cache(short).tokens, model.tokenize(short))
    assert seen == [4, 6]


def test_the_cache_respects_its_limit(model, windows):
    batch = windows.batch(range(6))
    size = TokenCache(model.tokenize)
    size(windows.batch([0]))
    cache = TokenCache(model.tokenize, limit_gb=3.5 * size.bytes / 1e9)
    for _ in range(2):
        same(cache(batch).tokens, model.tokenize(batch))
        assert len(cache) == 3 and cache.bytes == 3 * size.bytes


def test_windows_with_different_numbers_of_tokens_are_padded(windows):
    from neurofm.batch import Tokens

    def tokenize(batch: Batch) -> Tokens:
        n = 2 + int(batch.recording[0] == 0)
        real = torch.ones(1, n)
        return Tokens(real.unsqueeze(-1), real.bool(), real.long(), real, real.long().unsqueeze(-1))

    other = next(
        i for i, row in enumerate(windows.rows) if row.recording != windows.rows[0].recording
    )
    tokens = TokenCache(tokenize)(windows.batch([0, other])).tokens
    assert tokens.mask.tolist() == [[True] * 3, [True, True, False]]
    assert tokens.channel[1].tolist() == [1, 1, -1]


def test_tokens_of_earlier_data_are_forgotten(small, model, tmp_path):
    """Recordings of another data module have the same numbers."""
    task = Decode(model, n_outputs=2)
    scores = []
    for test in (["3"], ["1"]):
        data = decode_data(small, validate=[], test=test, subjects=test)
        data.setup()
        runner = trainer(tmp_path)
        runner.test(task, datamodule=data, verbose=False)
        scores.append(float(runner.callback_metrics["test/loss"]))
    fresh = Decode(model, n_outputs=2)
    fresh.load_state_dict(task.state_dict())
    runner = trainer(tmp_path)
    runner.test(fresh, datamodule=data, verbose=False)
    assert float(runner.callback_metrics["test/loss"]) == pytest.approx(scores[1], rel=1e-6)
    assert scores[0] != pytest.approx(scores[1], rel=1e-6)
