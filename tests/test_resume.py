"""Runs that resume bit by bit, and the checkpoints they resume from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fits import changed, decode_data, fit, state, task_and_data
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from neurofm.io import load_model, load_tokenizer
from neurofm.readouts import LatentMLP
from neurofm.tasks import Decode, Pretrain, Task, TrainTokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
]


# Resuming


# Inside the second epoch, of 7 steps and of 3; inside the first: tests/test_distributed.py.
@pytest.mark.parametrize(("kind", "step"), [("pretrain", 9), ("decode", 5)])
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
