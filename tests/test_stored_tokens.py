"""Training on stored tokens: the losses of training on the signal, and no tokens but one's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from neurofm.data.tokenized.making import tokenize_store
from neurofm.io import Store
from neurofm.tasks import Decode, Pretrain, TrainTokenizer

LABELS = ["left_hand", "right_hand"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
]


class Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]))


def fit(task: Any, data: Any, folder: Path, *more: Callback, **changes: Any) -> list[float]:
    seen, resume = Losses(), changes.pop("ckpt_path", None)
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": 4,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": bool(more),
        "default_root_dir": folder,
    }
    runner = lightning.Trainer(callbacks=[seen, *more], **options | changes)
    lightning.seed_everything(5, verbose=False)
    runner.fit(task, datamodule=data, ckpt_path=resume)
    return seen.losses


@pytest.fixture(scope="module")
def stored(small, tmp_path_factory) -> Path:
    """Tokens of all windows, and of those at events, by the tokenizer of `small.model()`."""
    folder = tmp_path_factory.mktemp("tokens")
    model, data = small.model(), small.data()
    data.setup()
    cuts: list[dict[str, Any]] = [{"window_s": 4.0}, {"window_s": 4.0, "labels": LABELS}]
    for cut in cuts:
        tokenize_store(
            Store(data.stores[0]),
            model.tokenizer,
            folder,
            options=model.token_options,
            cut=cut,
            progress=False,
        )
    return folder


def test_losses_are_those_of_training_on_the_signal(small, stored, tmp_path):
    made = [
        fit(Pretrain(small.model(), cache_tokens=cache), small.data(**options), tmp_path)
        for cache, options in ((True, {}), (False, {}), (True, {"tokens": str(stored)}))
    ]
    assert len(made[0]) == 4
    torch.testing.assert_close(made[2], made[0])
    torch.testing.assert_close(made[1], made[0], rtol=1e-4, atol=1e-4)


def test_decoding_from_tokens_of_labelled_windows_is_decoding_from_the_signal(
    small, stored, tmp_path
):
    made = [
        fit(Decode(small.model(), n_outputs=2), small.data(labels=LABELS, **options), tmp_path)
        for options in ({}, {"tokens": str(stored)})
    ]
    torch.testing.assert_close(made[1], made[0])


def test_tokens_need_neither_recordings_nor_prepared_signals(small, stored, tmp_path, monkeypatch):
    model = small.model()
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path / "none"))
    data = small.data(tokens=str(stored), store=str(tmp_path / "none"))
    task = Pretrain(model)
    assert len(fit(task, data, tmp_path)) == 4
    assert not (tmp_path / "none").exists()
    # Splits, audit and what was seen: by the recordings' names and fingerprints, as with signals.
    plain = small.data()
    plain.setup()
    assert data.split == plain.split and data.rows == plain.rows
    assert {*task.seen.recordings} == {data.rows[i].recording for i in data.split.train}
    assert all(task.seen.fingerprints)


def test_a_run_on_tokens_resumes_at_the_next_window(small, stored, tmp_path):
    def run(**changes: Any) -> list[float]:
        saved = ModelCheckpoint(
            dirpath=tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1
        )
        data = small.data(tokens=str(stored))
        return fit(Pretrain(small.model()), data, tmp_path, saved, **changes)

    whole = run()
    again = run(ckpt_path=tmp_path / "step=2.ckpt")
    assert again == whole[2:]


def test_tokens_of_another_tokenizer_are_refused_by_both_names(small, stored, tmp_path):
    model = small.model()
    mine = Store(next(stored.iterdir())).about["tokenizer"]
    with torch.no_grad():
        model.tokenizer.quantizer.levels[1].codebook[3, 2] += 1e-3
    with pytest.raises(ValueError, match=rf"made by {mine}, the model's tokenizer is Brain\S+\. "):
        fit(Pretrain(model), small.data(tokens=str(stored)), tmp_path)
    with pytest.raises(ValueError, match=f"made by {mine}, the model's tokenizer is "):
        fit(Pretrain(small.model(overlap_ratio=0.0)), small.data(tokens=str(stored)), tmp_path)


def test_what_learns_from_the_signal_refuses_tokens(small, stored, tmp_path):
    with pytest.raises(ValueError, match="stored tokens alone, and this needs the signal"):
        fit(TrainTokenizer(small.tokenizer()), small.data(tokens=str(stored)), tmp_path)


def test_signal_beside_tokens_is_read_for_models_that_need_both(small, stored):
    data, plain = small.data(tokens=str(stored), signal=True), small.data()
    data.setup()
    plain.setup()
    index = [5, 2, 40]
    batch = data.windows.batch(index)
    assert batch.has_signal and batch.tokens.made_by
    torch.testing.assert_close(batch.x, plain.windows.batch(index).x, rtol=0, atol=0)


def test_windows_cut_otherwise_are_refused_by_both_lengths(small, stored):
    only = next(p for p in stored.iterdir() if not Store(p).about["cut"]["labels"])
    with pytest.raises(ValueError, match=r"cut otherwise \(window_s: 4.0 against 3.0"):
        small.data(tokens=str(only), window_s=3.0).setup()


def test_missing_and_ambiguous_tokens_are_named(small, stored, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokens of corpus\. Make them: `neurofm token"):
        small.data(tokens=str(tmp_path)).setup()
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    plain = next(p for p in tmp_path.iterdir() if not Store(p).about["cut"]["labels"])
    shutil.copytree(plain, tmp_path / "corpus-twice")
    with pytest.raises(
        ValueError, match=r"several stores of tokens of corpus: .* by BrainTokenizer"
    ):
        small.data(tokens=str(tmp_path)).setup()
