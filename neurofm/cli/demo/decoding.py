"""Which hand? Probe and fine-tuning beside classical pipelines, on the same left-out runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from neurofm.batch import BrainModel
from neurofm.cli.demo.source import LABELS, Source
from neurofm.cli.demo.training import Trained, brain_data, fit, predict, read_recipe
from neurofm.data import BrainData, Row, Split, Windows, leave_one_out
from neurofm.evaluate import (
    BraindecodeClassifier,
    FoldScores,
    cross_validate,
    csp_lda,
    tangent_lr,
    within_subject,
)
from neurofm.io import Store, load_model
from neurofm.readouts import LatentStatistics

# 481 samples at 160 Hz: both ends included, as in an MNE epoch from 0.5 to 3.5 s.
_WINDOW_S = 3.00625
_CLASSICAL = [{"class_path": "neurofm.data.Bandpass", "init_args": {"low": 8.0, "high": 30.0}}]


@dataclass(frozen=True)
class Decoded:
    """Predictions of every method for the same windows.

    Args:
        scores: Ours first, then the baselines.
        finetuned: One fitted task per left-out run.
        data: Of the fine-tuning; its split is that of the last fold.
        rows: One per window, in the order of `FoldScores.window`.
        encode_rate: Tokens a second of the probe's pass over all windows.
    """

    scores: list[FoldScores]
    finetuned: list[Trained]
    data: BrainData
    rows: Sequence[Row]
    encode_rate: float


def decode(source: Source, model: Path, out: Path, *, seed: int) -> Decoded:
    """Train and test everything, leaving one run out."""
    recipe = read_recipe(source, "finetune", model=_by_run(model))
    fits, pieces, seconds = [], [], 0.0
    for number, run in enumerate(source.runs):
        data = brain_data(
            recipe, source, subjects=source.evaluate, runs=source.runs, validate=[], test=[run]
        )
        title = f"Fine-tuning {number + 1}/{len(source.runs)}, run {run} left out"
        trained = fit(recipe, data, out / f"finetune_run{run}", title=title, seed=seed)
        if data.split is None:
            raise ValueError("The data module made no split.")
        pieces.append((number, data.split.test, predict(trained.task, data, "test").numpy()))
        seconds += trained.seconds
        fits.append(trained)
    rows = fits[-1].data.rows
    tuned = _assemble("BrainOmni, fine-tuned", rows, pieces, seconds)
    start = time.monotonic()
    features, n_tokens = probe_features(load_model(model), fits[-1].data)
    rate = n_tokens / (time.monotonic() - start)
    probe = cross_validate(
        linear_probe,
        features[:, :, None],
        rows,
        within_subject(rows),
        name="BrainOmni, linear probe",
    )
    return Decoded([tuned, probe, *_baselines(source, rows, seed)], fits, fits[-1].data, rows, rate)


def linear_probe() -> Pipeline:
    """Logistic regression on standardised features of the frozen model."""
    return make_pipeline(
        _Flatten(), StandardScaler(), LogisticRegression(C=1e-3, max_iter=2000, random_state=0)
    )


class _Flatten:
    """window feature 1 -> window feature, as a step of a pipeline."""

    def fit(self, x: np.ndarray, y: Any = None) -> _Flatten:
        return self

    def transform(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1)


def probe_features(model: BrainModel, data: BrainData) -> tuple[np.ndarray, int]:
    """Mean and standard deviation over time of each latent source, and the number of tokens."""
    windows = cast(Windows, data.windows)
    found, tokens = [], 0
    statistics = LatentStatistics(model.dim, 2, n_sources=cast(Any, model).n_sources)
    with torch.no_grad():
        for start in range(0, len(windows), 32):
            batch = windows.batch(list(range(start, min(start + 32, len(windows)))))
            embedding = model.encode(batch)
            tokens += embedding.mask.numel()
            found.append(statistics.features(embedding))
    return torch.cat(found).numpy(), tokens


def _by_run(path: Path) -> dict[str, Any]:
    return {"model": {"class_path": "neurofm.load_model", "init_args": {"name": str(path)}}}


def _assemble(
    name: str, rows: Sequence[Row], pieces: list[tuple[int, tuple[int, ...], np.ndarray]], s: float
) -> FoldScores:
    index = np.concatenate([np.array(test) for _, test, _ in pieces])
    return FoldScores(
        name=name,
        y_true=np.array([LABELS.index(str(rows[i].label)) for i in index]),
        probability=np.concatenate([p for _, _, p in pieces]),
        subject=tuple(rows[i].subject for i in index),
        fold=np.concatenate([np.full(len(test), k) for k, test, _ in pieces]),
        window=index,
        group=tuple(rows[i].recording for i in index),
        classes=LABELS,
        seconds=s,
    )


def _baselines(source: Source, rows: Sequence[Row], seed: int) -> list[FoldScores]:
    """Classical pipelines on 8-30 Hz, 0.5-3.5 s after the cue, same trials and folds."""
    data = BrainData(
        [source.corpus.name],
        preprocess=_CLASSICAL,
        root=source.corpus.root,
        subjects=source.evaluate,
        runs=source.runs,
        labels=list(LABELS),
        window_s=_WINDOW_S,
        offset_s=0.5,
        split_by="run",
        validate=[],
        test=[source.runs[0]],
        dtype="float32",
    )
    data.prepare_data()
    windows = Windows(
        [Store(path) for path in data.stores],
        window_s=_WINDOW_S,
        offset_s=0.5,
        labels=LABELS,
        subjects=source.evaluate,
        runs=source.runs,
    )
    same = [(row.recording, row.label) for row in windows.rows]
    if same != [(row.recording, row.label) for row in rows]:
        raise ValueError("The baselines' windows are not the trials of the model.")
    x = windows.batch(range(len(windows))).x.numpy().astype(np.float64)
    own: list[Split] = within_subject(windows.rows)
    pooled = leave_one_out(windows.rows, by="run")
    table = windows.rows
    return [
        cross_validate(csp_lda, x, table, own, name="CSP + LDA"),
        cross_validate(tangent_lr, x, table, own, name="Tangent space + LR"),
        cross_validate(
            lambda: BraindecodeClassifier(
                "EEGNet",
                sfreq=windows.sfreq / 2,
                arguments={"kernel_length": 32},
                max_epochs=40,
                seed=seed,
            ),
            x[..., ::2],  # 8-30 Hz needs no more than half of 160 Hz
            table,
            pooled,
            name="EEGNet (braindecode)",
        ),
    ]
