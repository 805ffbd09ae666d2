"""What training a tokenizer says of its code book and of frequency bands, and how it is drawn."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from neurofm import metrics
from neurofm.batch import Batch
from neurofm.nn import ResidualVQ
from neurofm.report import plot_explained, read_run
from neurofm.tasks import TrainTokenizer
from neurofm.tasks.band_share import BandShare
from neurofm.tasks.code_use import CodeUse
from neurofm.tokenizers import CodedPatches, QuantileTokenizer
from neurofm.units import Kind

CPU = torch.device("cpu")


def batch_of(x: Tensor) -> Batch:
    n, channels, _ = x.shape
    there = torch.ones(n, channels, dtype=torch.bool)
    return Batch(
        x=x,
        channel_mask=there,
        kind=torch.full((n, channels), int(Kind.EEG)),
        position=torch.zeros(n, channels, 3),
        orientation=torch.zeros(n, channels, 3),
        has_position=~there,
        sfreq=128.0,
        onset=torch.arange(float(n), dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.long),
        recording=torch.zeros(n, dtype=torch.long),
        band=(1.0, 40.0),
    )


def noise(seed: int, n: int = 4) -> Tensor:
    return 20 * torch.randn(n, 3, 256, generator=torch.Generator().manual_seed(seed))


# Frequency bands


def test_bands_are_cut_to_the_signal_and_left_out_where_little_remains() -> None:
    cut = metrics.limit_bands(sfreq=256.0, band=(4.0, 40.0))
    assert list(cut) == ["theta", "alpha", "beta", "gamma"] and cut["gamma"] == (30.0, 40.0)
    assert list(metrics.limit_bands(sfreq=64.0)) == ["delta", "theta", "alpha", "beta"]


def test_share_agrees_with_band_error_of_one_window() -> None:
    x, made = noise(0, 1), noise(0, 1) + 0.3 * noise(1, 1)
    share = BandShare()
    share.add("train", x, made, sfreq=128.0)
    scale = x.std(-1, keepdim=True, correction=0)
    expected = metrics.band_error((x / scale).numpy(), (made / scale).numpy(), 128.0)
    found = share.pop("train", device=CPU)
    for name, values in expected.items():
        assert found[f"explained_{name}"] == pytest.approx(values["explained"], abs=1e-4)
    assert share.pop("train", device=CPU) == {}


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """The error has a tenth of the signal's power in every band."""
    hits = []
    for seed in range(60):
        x = noise(seed, 12)
        share = BandShare()
        for part in range(0, 12, 4):
            made = x + 0.1**0.5 * noise(1000 + seed, 12)
            share.add("validate", x[part : part + 4], made[part : part + 4], sfreq=128.0)
        found = share.pop("validate", device=CPU)
        assert found["explained_beta_low"] < found["explained_beta"] < found["explained_beta_high"]
        hits.append(found["explained_beta_low"] <= 0.9 <= found["explained_beta_high"])
    assert 0.8 <= np.mean(hits) <= 1.0


def test_loud_channels_and_padding_count_no_more_than_others() -> None:
    x = noise(0)
    made = x.clone()
    made[:, 0] = 0  # one channel of three is lost
    share = BandShare()
    factor = torch.tensor([1.0, 1e4, 1.0]).view(1, 3, 1)
    pad = torch.zeros(4, 1, 256)
    share.add(
        "test", torch.cat([x * factor, pad], 1), torch.cat([made * factor, pad], 1), sfreq=128.0
    )
    found = share.pop("test", device=CPU)
    assert found["explained_beta"] == pytest.approx(2 / 3, abs=0.05)


# Collapse


def codes(n_used: int, n: int = 4000) -> Tensor:
    return torch.randint(n_used, (n, 1), generator=torch.Generator().manual_seed(0))


def test_use_falling_to_half_is_a_collapse_in_the_making() -> None:
    use = CodeUse()
    use.add("train", codes(100), 128)
    assert use.pop("train")["size"] == 128 and use.problem == ""
    use.add("train", codes(40), 128)
    use.pop("train")
    assert "collapsing: 31 % of its codes are in use, after 78 %" in use.problem


def test_few_tokens_say_nothing_about_a_code_book() -> None:
    use = CodeUse()
    use.add("train", codes(1, n=200), 128)
    use.pop("train")
    assert use.problem == ""


def test_levels_are_told_apart() -> None:
    use = CodeUse()
    use.add("train", torch.cat([codes(64), codes(1)], 1), 64)
    found = use.pop("train")
    assert found["usage_level_1"] == 1 and found["dead_level_2"] == 63
    assert found["perplexity_level_2"] == pytest.approx(1)
    assert "level 2 of 2 has collapsed" in use.problem


# Training


def loader(*seeds: int) -> DataLoader:
    return DataLoader([batch_of(noise(seed)) for seed in seeds], batch_size=None)  # type: ignore[arg-type]


def train(tokenizer: Any, folder: Path, *, epochs: int = 2) -> TrainTokenizer:
    task = TrainTokenizer(tokenizer)
    runner = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=CSVLogger(folder, name="", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, "last")],
        log_every_n_steps=1,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        runner.fit(task, loader(0, 1), loader(2))
    return task


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")
@pytest.mark.parametrize(("epochs", "figures"), [(1, 0), (2, 3)])
def test_fitting_needs_no_gradient_and_its_run_is_drawn(
    tmp_path: Path, epochs: int, figures: int
) -> None:
    task = train(QuantileTokenizer(n_codes=32), tmp_path, epochs=epochs)
    assert task.idle is not None and not task.idle.any() and task.global_step == 2 * epochs
    loaded = TrainTokenizer.load_from_checkpoint(tmp_path / "last.ckpt")
    torch.testing.assert_close(loaded.tokenizer.edges, task.tokenizer.edges, rtol=0, atol=0)
    report = read_run(tmp_path)
    sections = {section.title: section for section in report.sections}
    codes = sections["Code book"]
    assert len(codes.figures) == figures  # one number each needs no curve
    assert codes.table is not None and codes.table.columns[:2] == ("side", "in use (%)")
    assert [row[0] for row in codes.table.rows] == ["train", "validate"]
    bands = sections["Reconstruction by frequency band"]
    assert len(bands.figures) == 1 and "delta" in str(bands)
    assert "codebook" not in str(sections["Training"])


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")
def test_a_collapse_in_training_is_warned_of_once_with_a_remedy(tmp_path: Path) -> None:
    quantizer = ResidualVQ(8, num_quantizers=2, codebook_dim=8, codebook_size=8)
    tokenizer = CodedPatches(quantizer, dim=8, width=8, depth=1)
    tokenizer(batch_of(noise(0)))  # the code book starts, then all codes but one move far away
    for level in quantizer.levels:
        level.codebook[1:] += 1e4
        level.codebook_sum[1:] += 1e4 * level.count[1:].unsqueeze(1)
    with pytest.warns(UserWarning, match=r"level \d of 2 has collapsed.*restart_below") as caught:
        task = TrainTokenizer(tokenizer, lr=1e-6)
        runner = lightning.Trainer(
            accelerator="cpu",
            max_epochs=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        runner.fit(task, loader(0), loader(1))
    assert len([found for found in caught if "collapsed" in str(found.message)]) == 1
    assert {"validate/explained_beta", "validate/codebook_usage_level_2"} <= {
        *runner.callback_metrics
    }


def test_bars_have_a_name_a_unit_and_an_interval() -> None:
    bands = {"delta": (0.9, 0.85, 0.95), "beta": (-0.2, -0.4, 0.0)}
    figure = plot_explained({"train": bands, "validate": bands})
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "delta\n1-4 Hz",
        "beta\n13-30 Hz",
    ]
    assert len(axes.patches) == 4 and axes.get_ylabel() == "power explained (%)"
    assert sorted(list(line.get_ydata()) for line in axes.lines)[0] == [-40.0, 0.0]
