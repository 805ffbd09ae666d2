"""The task of encoding models: masks, scores, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from response_toys import Batches, PairsData, fitted, pairs_of, scored
from torch import Tensor

from neurofm.batch import ResponseModel
from neurofm.data.response_data import PairLoader, PairTable
from neurofm.models import CoreReadout, LanguageCore, LinearReadout, TransformerBrainEncoder
from neurofm.nn.response_losses import masked_concordance, masked_huber, masked_mse
from neurofm.tasks import Encode
from neurofm.tasks.channel_scores import ChannelScores

FEATURES, CHANNELS = 6, 5


def model(people: int = 1) -> CoreReadout:
    torch.manual_seed(0)
    readouts = [LinearReadout([FEATURES, 1, 1], CHANNELS, alpha=0.0) for _ in range(people)]
    return CoreReadout(LanguageCore(FEATURES), readouts[0] if people == 1 else readouts)


def data(people: int = 1, n: int = 96) -> PairsData:
    """Linear responses; a third is missing."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, FEATURES, generator=generator)
    subject = torch.arange(n) % people
    weights = torch.randn(people, CHANNELS, FEATURES, generator=generator)
    y = torch.einsum("bcf,bf->bc", weights[subject], x)
    mask = torch.rand(n, CHANNELS, generator=generator) > 1 / 3
    pairs = pairs_of(x, y, mask=mask, subject=subject)
    return PairsData(pairs, n_train=n * 2 // 3, batch_size=16)


def test_a_response_model_is_one_by_shape() -> None:
    assert isinstance(model(), ResponseModel)


@pytest.mark.parametrize(("people", "loss"), [(2, "mse"), (1, "huber"), (1, "mse+concordance")])
def test_linear_responses_of_every_person_are_learned(people: int, loss: str) -> None:
    task = Encode(model(people), loss=loss, lr=0.1)
    assert fitted(task, data(people), max_epochs=10) > 0.95
    assert task.r.shape == (people, CHANNELS)


def test_missing_responses_change_neither_loss_nor_scores() -> None:
    given = data()
    other = replace(given.held, y=torch.where(given.held.mask, given.held.y, torch.tensor(99.0)))
    said = []
    for pairs in (given.held, other):
        given.held = pairs
        said.append((scored(Encode(model()), given), float(Encode(model()).step(pairs, "train"))))
    assert said[0] == said[1]


def test_a_missing_response_may_be_nan_and_leaves_gradients_whole() -> None:
    prediction = torch.zeros(2, 3, requires_grad=True)
    y = torch.tensor([[1.0, torch.nan, 0.0], [2.0, torch.nan, 1.0]])
    mask = y.isfinite()
    for function in (masked_mse, masked_huber, masked_concordance):
        (grad,) = torch.autograd.grad(function(prediction + torch.arange(3.0), y, mask), prediction)
        assert bool(grad.isfinite().all()) and not bool(grad[:, 1].any())


@pytest.mark.parametrize("function", [masked_mse, masked_huber, masked_concordance])
def test_losses_count_entries_of_responses_over_time(function) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, y = torch.randn(2, 4, 3, 7, generator=generator)
    mask = torch.tensor([[True, True, False]]).expand(4, 3)
    long = function(prediction, y, mask)
    flat = function(prediction.flatten(1), y.flatten(1), mask.repeat_interleave(7, 1))
    torch.testing.assert_close(long, flat)
    torch.testing.assert_close(long, function(prediction[:, :2], y[:, :2], mask[:, :2]))


def test_concordance_punishes_scale_where_correlation_does_not() -> None:
    y = torch.linspace(-1, 1, 400).view(100, 4)
    mask = torch.ones(100, 4, dtype=torch.bool)
    assert float(masked_concordance(y, y, mask)) == pytest.approx(1 / 400, abs=1e-4)
    assert float(masked_concordance(0.5 * y, y, mask)) == pytest.approx(1 - 1 / 1.25, abs=0.01)
    assert float(masked_concordance(y, y, torch.zeros_like(mask))) == 1.0


def test_scores_are_numpys_correlations_in_any_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    p, y = 50 + torch.randn(2, 60, 4, generator=generator)
    mask = torch.rand(60, 4, generator=generator) > 0.3
    subject = torch.arange(60) % 2
    pairs = pairs_of(p, y, mask=mask, subject=subject)
    scores = ChannelScores()
    for batch in Batches(pairs, 7, shuffle=True):
        scores.add(batch.stimulus, batch.y, batch.mask, batch.subject)
    found = scores.result()
    assert found is not None
    for person in range(2):
        for channel in range(4):
            rows = mask[:, channel] & (subject == person)
            r = np.corrcoef(p[rows, channel], y[rows, channel])[0, 1]
            assert found.r[person, channel] == pytest.approx(r, abs=1e-6)
    assert (found.unscored, found.constant) == (0, 0)


def test_constant_channels_are_counted_and_not_rewarded() -> None:
    generator = torch.Generator().manual_seed(0)
    p, y = torch.randn(2, 20, 4, generator=generator)
    p[:, 1] = 3.0  # constant prediction: 0
    y[:, 2] = 1e4  # constant response: nothing to score
    mask = torch.ones(20, 4, dtype=torch.bool)
    mask[:, 3] = False  # never measured: not counted at all
    scores = ChannelScores()
    scores.add(p, y, mask, torch.zeros(20, dtype=torch.int64))
    found = scores.result()
    assert found is not None
    assert found.r[0, 1] == 0
    assert np.isnan(found.r[0, 2:]).all()
    assert (found.unscored, found.constant) == (1, 1)


def test_nothing_to_score_is_said(recwarn: pytest.WarningsRecorder) -> None:
    given = data()
    given.held = replace(given.held, y=torch.zeros_like(given.held.y))
    assert scored(Encode(model()), given) == 0
    assert any("nothing can be scored" in str(w.message) for w in recwarn)


def test_hemispheres_add_their_losses_and_average_their_scores() -> None:
    torch.manual_seed(0)
    encoder = TransformerBrainEncoder(
        *(6, 2), rois=["a"], dim=8, heads=2, feedforward=8, dropout=0.0
    )
    grid, y = torch.randn(12, 8, 2, 2), torch.randn(12, 8)
    task = Encode(encoder)
    pairs = pairs_of(grid, y)
    prediction = encoder.respond(grid)
    wanted = (prediction - y)[:, :6].square().mean() + (prediction - y)[:, 6:].square().mean()
    torch.testing.assert_close(task.step(pairs, "train"), wanted)
    got = scored(task.eval(), PairsData(pairs, n_train=0))
    assert got == pytest.approx((task.r[0, :6].mean() + task.r[0, 6:].mean()) / 2, abs=1e-6)


def kept(folder: Path, epochs: int, data: PairsData, start: Path | None = None) -> Encode:
    task = Encode(model(), lr=0.02)
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(
        dirpath=folder, filename="best", monitor=task.best[0], mode=task.best[1], save_last=True
    )
    cut = lightning.pytorch.callbacks.ModelCheckpoint(
        dirpath=folder, filename="{step}", every_n_train_steps=6, save_top_k=-1
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[checkpoint, cut],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, datamodule=data, ckpt_path=start)
    assert checkpoint.best_model_score == max(
        float(checkpoint.best_model_score), float(trainer.callback_metrics["validate/r"])
    )
    return task


def test_a_run_that_goes_on_ends_like_one_that_never_stopped(tmp_path: Path) -> None:
    whole = kept(tmp_path / "whole", 2, data())
    kept(tmp_path / "half", 1, data())
    given = data()
    again = Batches(given.train, given.batch_size, shuffle=True)
    again.epoch = 1
    given.train_dataloader = lambda: again  # type: ignore[method-assign]
    resumed = kept(tmp_path / "rest", 2, given, tmp_path / "half" / "last.ckpt")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, resumed.state_dict()[name], rtol=0, atol=0)
    loaded = Encode.load_from_checkpoint(tmp_path / "whole" / "last.ckpt")
    torch.testing.assert_close(loaded(given.held), whole.eval()(given.held), rtol=0, atol=0)


def stored(given: PairsData) -> PairsData:
    """The same pairs from the loader of `ResponseData`, which resumes anywhere."""
    pairs = given.train
    values = torch.where(pairs.mask, pairs.y, torch.nan).numpy()
    rows = pairs.index.numpy()
    table = PairTable(pairs.stimulus.numpy(), values, rows, pairs.subject.numpy())
    loader = PairLoader(table, batch_size=16, shuffle=True, seed=3)
    given.train_dataloader = lambda: loader  # type: ignore[method-assign]
    return given


def test_a_run_cut_in_mid_epoch_goes_on_with_the_next_batch(tmp_path: Path) -> None:
    whole = kept(tmp_path / "whole", 3, stored(data()))
    cut = tmp_path / "whole" / "step=6.ckpt"  # of four batches in an epoch
    resumed = kept(tmp_path / "rest", 3, stored(data()), cut)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, resumed.state_dict()[name], rtol=0, atol=0)


def test_areas_come_from_the_data() -> None:
    torch.manual_seed(0)
    encoder = TransformerBrainEncoder(*(2, 2), rois=["V1", "rest"], dim=8, heads=2, feedforward=8)
    given = PairsData(pairs_of(torch.randn(8, 8, 2, 2), torch.randn(8, 4)), n_train=4)
    given.regions = ("V1", "", "V1+rest", "rest")
    fitted(Encode(encoder), given, max_epochs=1)
    masks = torch.cat([encoder.left_masks, encoder.right_masks], 1)
    assert masks.tolist() == [[True, False, True, False], [False, True, True, True]]


def damaged(given: PairsData, value: float) -> PairsData:
    stimulus = given.train.stimulus.clone()
    stimulus[3, 0] = value
    given.train = replace(given.train, stimulus=stimulus)
    return given


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda given: damaged(given, float("nan")), "stimulus 3 of person 0"),
        (lambda given: setattr(given, "n_channels", 9) or given, "predicts 5 channels, the data"),
    ],
)
def test_what_is_wrong_with_data_is_said(change, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fitted(Encode(model()), change(data()), max_epochs=1)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="loss 'mae', expected one of mse"):
        Encode(model(), loss="mae")


def test_responses_of_another_length_are_refused() -> None:
    class Long(CoreReadout):
        def respond(self, stimulus: Tensor, *, subject: Tensor | None = None) -> Tensor:
            return torch.zeros(len(stimulus), CHANNELS + 1)

    with pytest.raises(ValueError, match=r"gives \[4, 6\] for responses of \[4, 5\]"):
        Encode(Long(LanguageCore(FEATURES), LinearReadout([FEATURES, 1, 1], CHANNELS))).step(
            pairs_of(torch.randn(4, FEATURES), torch.randn(4, CHANNELS)), "train"
        )
