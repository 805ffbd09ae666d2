"""Records of a suite that nobody ran: predictions drawn with a known strength for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neurofm.evaluate.suites import Suite


def toy_suite(
    methods: Sequence[str], *, protocols: Sequence[str] = ("leave_one_run_out",), **changes: Any
) -> Suite:
    """A card of methods that all read two seconds from half a second after the cue."""
    card: dict[str, Any] = {
        "description": "Who decodes toys?",
        "version": 1,
        "metrics": ["balanced_accuracy", "auroc", "kappa"],
        "reference": methods[0],
        "seeds": [0, 1, 2],
        "shares": [1.0],
        "datasets": {
            "toys": {
                "title": "Toys",
                "data": {"datasets": ["toys"], "labels": ["left_hand", "right_hand"]},
                "protocols": list(protocols),
            }
        },
        "protocols": {name: {"folds": name} for name in protocols},
        "methods": {
            name: {
                "title": name.replace("_", " "),
                "data": {"window_s": 2.0, "offset_s": 0.5},
                "estimator": {"class_path": "neurofm.evaluate.csp_lda"},
            }
            for name in methods
        },
    }
    return Suite("toy", card | changes)


def toy_records(
    strengths: Mapping[str, float],
    *,
    people: int = 8,
    folds: int = 3,
    trials: int = 16,
    seeds: Sequence[int] = (0,),
    classes: Sequence[str] = ("left_hand", "right_hand"),
    dataset: str = "toys",
    protocol: str = "leave_one_run_out",
    share: float = 1.0,
    label_of: Mapping[str, int] | None = None,
    sharpness: float = 1.0,
) -> list[dict[str, Any]]:
    """One record per method, fold and seed; every person is in every fold, as one recording.

    Args:
        strengths: Method to how far the evidence for the true class stands out; 0 is chance.
        trials: Of a person and fold, classes in turn.
        label_of: Person to the one class of all their windows.
        sharpness: Of the probabilities; 1 is honest.
    """
    rng = np.random.default_rng(5)
    names = [f"{i + 1:03d}" for i in range(people)]
    talent = dict(zip(names, rng.normal(1, 0.5, people), strict=True))
    k, found = len(classes), []
    for method, strength in strengths.items():
        for fold in range(folds):
            for seed in seeds:
                rows: dict[str, list[Any]] = {"subject": [], "recording": [], "window": []}
                y: list[int] = []
                evidence = []
                for name in names:
                    own = np.arange(trials) % k
                    if label_of is not None:
                        own = np.full(trials, label_of[name])
                    rows["subject"] += [name] * trials
                    rows["recording"] += [f"{name} run {fold}"] * trials
                    rows["window"] += list(range(trials))
                    y += own.tolist()
                    seen = rng.normal(size=(trials, k))
                    gain = strength * max(talent[name], 0.0)
                    evidence.append(gain * (seen + gain * np.eye(k)[own]))
                logits = sharpness * np.concatenate(evidence)
                p = np.exp(logits - logits.max(1, keepdims=True))
                p = np.round(p / p.sum(1, keepdims=True), 4)
                found.append(
                    {
                        "key": f"{dataset}-{protocol}-{method}-{share}-{fold}-{seed}",
                        "suite": "toy",
                        "dataset": dataset,
                        "protocol": protocol,
                        "fold": fold,
                        "fold_name": f"run {fold}",
                        "method": method,
                        "weights": "none",
                        "reading": "trained",
                        "share": share,
                        "seed": seed,
                        "windows": f"{dataset}-{protocol}-{fold}-{share}",
                        "n_train": round(share * people * (folds - 1) * trials),
                        "n_test": len(y),
                        "classes": list(classes),
                        "align": "none",
                        "cpu_s": 2.0,
                        "wall_s": 2.0,
                        "pretraining_cpu_s": 0.0,
                        "parameters": 1200,
                        "versions": {},
                        "test": {**rows, "y": y, "p": p.tolist()},
                    }
                )
    return found
