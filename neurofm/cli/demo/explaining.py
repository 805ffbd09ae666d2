"""What the fine-tuned model looks at, and how its layers arrange the trials."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.cli.demo.decoding import Decoded
from neurofm.cli.demo.source import LABELS, Source
from neurofm.data import Windows
from neurofm.interpret import (
    band_power,
    class_rdm,
    condition_means,
    integrated_gradients,
    layer_rsa,
    rdm,
    record,
    remove_band,
    within,
)
from neurofm.types import RDM, Result

_LEFT = ("C5", "C3", "C1", "FC3", "CP3", "FC5", "CP5", "FC1", "CP1")
_RIGHT = ("C6", "C4", "C2", "FC4", "CP4", "FC6", "CP6", "FC2", "CP2")
_REMOVED = {"theta": (4.0, 8.0), "mu": (8.0, 13.0), "beta": (13.0, 30.0), "gamma": (30.0, 40.0)}
_EXPLAINED = 24  # windows of each left-out run


@dataclass(frozen=True)
class Explained:
    """Explanations, over the test windows of every fold.

    Args:
        position: Metres, head frame.
        names: Of the channels.
        maps: Label to attribution per channel, share of all attribution in percent.
        completeness_error: Of the integrated gradients.
        effect: Hemisphere to band to change of logit(right hand) - logit(left hand) when the band
            is removed over that hemisphere's motor cortex.
        layers: Similarity of each layer to class structure and to the EEG.
        rdms: Of the EEG, of the last layer and of the classes.
        groups: Subject of each condition of the RDMs.
    """

    position: np.ndarray
    names: tuple[str, ...]
    maps: dict[str, np.ndarray]
    completeness_error: float
    effect: dict[str, dict[str, float]]
    layers: list[Result]
    rdms: dict[str, RDM]
    groups: list[str]

    @property
    def strongest(self) -> tuple[str, str]:
        """Hemisphere and band whose removal moves the decision most."""
        pairs = [(side, band) for side, bands in self.effect.items() for band in bands]
        return max(pairs, key=lambda pair: abs(self.effect[pair[0]][pair[1]]))

    @property
    def contralateral(self) -> float:
        """Effect of mu and beta, left minus right hemisphere: positive if a hand is read from the
        weaker rhythms of the opposite side.
        """
        return sum(self.effect["left"][b] - self.effect["right"][b] for b in ("mu", "beta"))


def explain(source: Source, decoded: Decoded, *, seed: int) -> Explained:
    """Attribution and interventions on held-out windows; similarity of layers."""
    windows = cast(Windows, decoded.data.windows)
    names = windows.entries[0].sensors.names
    maps: dict[str, list[np.ndarray]] = {label: [] for label in LABELS}
    errors: list[float] = []
    effects: list[dict[str, dict[str, float]]] = []
    for trained in decoded.finetuned:
        task = trained.task
        split = trained.data.split
        if split is None:
            continue
        some = windows.batch(_balanced(windows, split.test, seed))
        effects.append(_interventions(task, some, names))
        target = torch.ones(len(some), dtype=torch.int64)  # evidence for the right hand
        found = integrated_gradients(task, some, target, steps=8)
        errors.append(found.completeness_error or 0.0)
        by_class = found.over("time").class_means(some.y, absolute=True)
        for index, label in enumerate(LABELS):
            if index in by_class:
                maps[label].append(100 * by_class[index] / by_class[index].sum())
    mean = {
        side: {band: float(np.mean([e[side][band] for e in effects])) for band in _REMOVED}
        for side in ("left", "right")
    }
    layers, rdms, groups = _similarity(decoded, windows, seed)
    return Explained(
        position=windows.entries[0].sensors.position,
        names=names,
        maps={label: np.mean(found, axis=0) for label, found in maps.items()},
        completeness_error=float(np.mean(errors)),
        effect=mean,
        layers=layers,
        rdms=rdms,
        groups=groups,
    )


def _balanced(windows: Windows, test: tuple[int, ...], seed: int) -> list[int]:
    """As many windows of each class, drawn at random."""
    draw = np.random.default_rng(seed)
    chosen: list[int] = []
    for label in LABELS:
        own = [i for i in test if windows.rows[i].label == label]
        chosen += draw.permutation(own)[: _EXPLAINED // len(LABELS)].tolist()
    return chosen


def _interventions(task: Any, batch: Batch, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Remove one band over one hemisphere's motor cortex and see the decision move."""

    def preference(x: Tensor) -> Tensor:
        logits = task(replace(batch, x=x))
        return logits[:, 1] - logits[:, 0]

    found: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        before = preference(batch.x)
        for side, channels in (("left", _LEFT), ("right", _RIGHT)):
            inside = torch.tensor([name in channels for name in names])
            found[side] = {}
            for band, (low, high) in _REMOVED.items():
                x = torch.where(
                    inside[:, None], remove_band(batch.x, batch.sfreq, low, high), batch.x
                )
                found[side][band] = float((preference(x) - before).mean())
    return found


def _similarity(
    decoded: Decoded, windows: Windows, seed: int
) -> tuple[list[Result], dict[str, RDM], list[str]]:
    """Layers, classes and EEG as dissimilarities between (person, run, class) averages."""
    model = cast(Any, decoded.finetuned[-1].task).model
    order = list(range(len(windows)))
    batches = [windows.batch(order[i : i + 32]) for i in range(0, len(order), 32)]
    depth = len(model.blocks) - 1  # encode skips the last block
    sites = ["tokenizer.compression", *(f"blocks.{i}" for i in range(depth))]
    found = record(model, sites, run=model.encode, batches=batches, reduce=_over_time)
    rows = decoded.rows
    conditions = [(row.subject, row.run, row.label) for row in rows]
    patterns: dict[str, np.ndarray] = {}
    for site in sites:
        means, _ = condition_means(found.patterns(site), conditions)
        name = "tokenizer" if site.startswith("tokenizer") else site.replace("blocks.", "block ")
        patterns[name] = np.asarray(means)
    x = np.concatenate([batch.x.numpy() for batch in batches])
    power = band_power(x, windows.sfreq, {b: _REMOVED[b] for b in ("mu", "beta")})
    eeg, _ = condition_means(power.reshape(len(power), -1), conditions)
    keys = list(dict.fromkeys(conditions))
    groups = [str(key[0]) for key in keys]
    labels = [" ".join(map(str, key)) for key in keys]
    eeg_rdm = rdm(eeg, labels=labels)
    classes = class_rdm([key[2] for key in keys], names=labels)
    results = layer_rsa(
        patterns,
        {
            "classes": within(classes, groups),
            "EEG power, mu and beta": within(eeg_rdm, groups),
        },
        generator=np.random.default_rng(seed),
        groups=groups,
        n_permutations=500,
        n_bootstrap=500,
    )
    last = list(patterns)[-1]
    return (
        results,
        {"classes": classes, "EEG": eeg_rdm, last: rdm(patterns[last], labels=labels)},
        groups,
    )


def _over_time(value: np.ndarray) -> np.ndarray:
    """window source ... step dim -> mean and spread over steps, flattened."""
    steps = value.reshape(len(value), value.shape[1], -1, value.shape[-1])
    return np.concatenate([steps.mean(2), steps.std(2)], -1).reshape(len(value), -1)
