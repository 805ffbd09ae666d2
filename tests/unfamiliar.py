"""A decoder of imagined movement, and how well it notices recordings that are new to it.

The network learns on one run; states are counted there, settings are chosen on a second run beside
a distorted copy of it, and judged on a third run, beside other people and other headsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurofm import load_model
from neurofm.batch import Batch
from neurofm.data import BrainData
from neurofm.interpret.monitoring import (
    Detections,
    Influence,
    choose_coverage,
    compare_familiarity,
    influences,
)
from neurofm.metrics import balanced_accuracy
from neurofm.readouts import LatentStatistics
from neurofm.tasks import Decode
from neurofm.tasks.in_memory import fit_windows

SITES = ["model.blocks.0", "model.blocks.1", "model.blocks.2"]
CLASSES = ["rest", "left_hand", "right_hand"]
TEN_TWENTY = [
    *("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8"),
    *("P7", "P3", "Pz", "P4", "P8", "O1", "O2"),
]
OLDER = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6"}  # the same places by their older names


@dataclass(frozen=True)
class Windows:
    """Windows of one corpus, with who and which run they are of."""

    batch: Batch
    subject: np.ndarray
    run: np.ndarray

    def take(self, chosen: np.ndarray) -> Windows:
        index = np.flatnonzero(chosen)
        batch = self.batch._map(lambda tensor: tensor[torch.from_numpy(index)])
        return Windows(batch, self.subject[index], self.run[index])

    def changed(self, x: torch.Tensor) -> Windows:
        return replace(self, batch=replace(self.batch, x=x))


def read(
    dataset: str,
    *,
    subjects: Sequence[str],
    runs: Sequence[str],
    labelled: bool,
    store: Path,
    older: bool = False,
) -> Windows:
    names = [OLDER.get(name, name) if older else name for name in TEN_TWENTY]
    steps: list[dict[str, Any]] = [
        {"class_path": "neurofm.data.Notch"},
        {"class_path": "neurofm.data.Bandpass", "init_args": {"low": 4.0, "high": 40.0}},
        {"class_path": "neurofm.data.Resample", "init_args": {"sfreq": 128.0}},
        {"class_path": "neurofm.data.PickChannels", "init_args": {"names": names}},
    ]
    data = BrainData(
        [dataset],
        preprocess=steps,
        store=store,
        subjects=list(subjects),
        runs=list(runs),
        labels=CLASSES if labelled else None,
        window_s=3.5,
        offset_s=0.5 if labelled else 0.0,
        split_by="recording",
        validate=0.0,
        test=0.5,
    )
    data.setup()
    assert data.windows is not None
    rows = list(data.rows)
    return Windows(
        data.windows.batch(range(len(data.windows))),
        np.array([int(row.subject) for row in rows]),
        np.array([int(row.run) for row in rows]),
    )


def distorted(windows: Windows, seed: int = 0) -> Windows:
    """Every fourth channel silent in some windows, noise or a wrong gain in others."""
    rng = torch.Generator().manual_seed(seed)
    x = windows.batch.x.clone()
    kind = torch.arange(len(x)) % 3
    x[kind == 0, ::4] = 0
    spread = x.std(-1, keepdim=True)
    noise = spread * torch.randn(x.shape, generator=rng)
    x[kind == 1] += noise[kind == 1]
    x[kind == 2, 1::2] *= 4
    return windows.changed(x)


def other_amplifier(windows: Windows, seed: int = 1) -> Windows:
    """The same people under an amplifier with another reference (Cz) and 3 µV of its own noise."""
    rng = torch.Generator().manual_seed(seed)
    x = windows.batch.x
    x = x - x[:, TEN_TWENTY.index("Cz"), None] + 3 * torch.randn(x.shape, generator=rng)
    return windows.changed(x)


@dataclass(frozen=True)
class Found:
    """AUROCs by comparison, and how well the network decodes the third run."""

    detections: Mapping[str, Detections]
    decoding: float
    alpha: Mapping[str, float]

    def table(self) -> str:
        lines = [f"decoding {self.decoding:.3f}, alpha {dict(self.alpha)}"]
        for against, scores in self.detections.items():
            lines += [f"{against}, {name}: {one.summary()}" for name, one in scores.scores.items()]
        return "\n".join(lines)


def measure(
    known: Windows,
    runs: tuple[int, int, int],
    others: Mapping[str, Windows],
    *,
    epochs: int,
    seed: int = 0,
) -> Found:
    """Train on the first run of the known people; judge their third run beside the others.

    Args:
        runs: To learn and count on, to choose settings on, to judge.
    """
    first, second, third = (known.take(known.run == run) for run in runs)
    torch.manual_seed(seed)
    n = len(TEN_TWENTY)
    task = Decode(
        load_model("patch_transformer_demo"),
        n_outputs=len(CLASSES),
        readout=LatentStatistics(dim=64, n_outputs=len(CLASSES), n_sources=n),
        lr=3e-3,
        backbone_lr=0.3,
    )
    fit_windows(task, first.batch, epochs=epochs, batch_size=16, seed=seed)

    def layers(windows: Windows) -> dict[str, Influence]:
        parts = [
            windows.take(np.arange(len(windows.run)) // 32 == i).batch
            for i in range(-(-len(windows.run) // 32))
        ]
        return influences(task, SITES, run=task, batches=parts)

    train, inside = layers(first), layers(third)
    detector = choose_coverage(train, layers(second), layers(distorted(second)))
    with torch.no_grad():
        right = balanced_accuracy(third.batch.y.numpy(), task(third.batch).argmax(1).numpy())
    found = {
        name: compare_familiarity(
            train,
            inside,
            layers(windows),
            detector=detector,
            labels=first.batch.y.numpy(),
            inside_groups=third.subject,
            outside_groups=windows.subject,
        )
        for name, windows in others.items()
    }
    return Found(found, right, detector.alpha)
