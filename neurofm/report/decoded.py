"""What a fine-tuned decoder said of held-out windows: confusions, calibration, every person.

Reads the `predictions-STAGE.json` that `neurofm fit`, `validate` and `test` leave in a run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from neurofm import metrics, stats
from neurofm.figures import plot_scores
from neurofm.report.plots import plot_confusion
from neurofm.report.predictions import plot_reliability
from neurofm.report.report import Report
from neurofm.types import Result

_PEOPLE = 40  # more are in the table alone


def add_predictions(report: Report, folder: Path) -> None:
    """A section for each stage that left predictions, the newest ones below a folder.

    Raises:
        ValueError: A file is not what was written; it is named.
    """
    for stage in ("validate", "test"):
        found = sorted(
            folder.rglob(f"predictions-{stage}.json"), key=lambda path: path.stat().st_mtime
        )
        if found:
            _add(report, stage, found[-1], folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        n, k = len(said["y"]), len(said["classes"])
        p = np.asarray(said["p"], dtype=float)
        y, people = np.asarray(said["y"]), np.asarray(said["subject"])
        if not n or p.shape != (n, k) or people.shape != (n,) or len(said["recording"]) != n:
            raise ValueError(f"probabilities {p.shape} for {n} windows of {k} classes")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is incomplete or was edited ({error}). Run the test or the training again."
        ) from error
    return said | {"p": p / p.sum(1, keepdims=True), "y": y, "subject": people}


def _add(report: Report, stage: str, path: Path, folder: Path) -> None:
    said = _read(path)
    y, p, classes = said["y"], said["p"], [str(name) for name in said["classes"]]
    chosen = p.argmax(1)
    people = scores_of_people(said)
    whole = over_people(said)
    counts = metrics.confusion(y, chosen, labels=range(len(classes)))
    words = f"{stage} windows: {len(y)}, {len(people)} people"
    figures = [
        (
            plot_confusion(counts, [name.replace("_", " ") for name in classes], title=words),
            "Number of windows of each true class that were given each class; colour: share.",
        ),
        (
            plot_reliability(
                {"": (p.max(1), chosen == y, said["subject"].tolist())},
                title="Reliability",
                lowest=1 / len(classes),
                errors={"": metrics.expected_calibration_error(y, p)},
            ),
            "How often the decoder is right when it is so sure, with 95 % intervals over people "
            "where there are three or more; on the diagonal it is honest.",
        ),
    ]
    if len(people) <= _PEOPLE:
        figures.append(
            (
                plot_scores(people, title=f"Every person, {stage}", xlabel="accuracy", chance=None),
                "Accuracy of each person with Wilson's 95 % interval over windows; dashed: always "
                "guessing the most frequent class, where that is the same for everybody.",
            )
        )
    text = (
        f"From {path.relative_to(folder)}. Means are over people, intervals draw people "
        "(none for fewer than three); chance of the person's score is the most frequent class."
    )
    if stage == "validate":
        text += " These windows may have chosen the checkpoint: a test on others is the result."
    p_value = whole[0].detail.get("p")
    if p_value is not None:
        text += (
            f" Labels shuffled inside recordings do as well in p = {p_value:.3f} of the shuffles "
            "(balanced accuracy)."
        )
    report.add_section(f"Predictions, {stage}", text=text, figures=figures, results=whole + people)


def scores_of_people(said: dict[str, Any]) -> list[Result]:
    """Accuracy of each person, with the interval over windows and the score of a guess."""
    found = []
    for name in np.unique(said["subject"]).tolist():
        own = said["subject"] == name
        right = int((said["p"][own].argmax(1) == said["y"][own]).sum())
        low, high = stats.wilson_interval(right, int(own.sum()))
        guess = stats.chance_level(said["y"][own])[0]
        share = right / int(own.sum())
        n = int(own.sum())
        found.append(Result(f"person {name}", share, low=low, high=high, n=n, chance=guess))
    return found


def over_people(said: dict[str, Any], *, n_permutations: int = 500) -> list[Result]:
    """Means over people of the scores that a class per window allows.

    Returns:
        Balanced accuracy first; its `detail["p"]` is that of labels shuffled inside recordings,
        absent where every recording holds one class.
    """
    y, p = said["y"], said["p"]
    owners = [said["subject"] == name for name in np.unique(said["subject"])]
    k = p.shape[1]

    def balanced(labels: np.ndarray, chosen: np.ndarray) -> float:
        return float(np.mean([metrics.balanced_accuracy(labels[o], chosen[o]) for o in owners]))

    values = {
        "balanced accuracy": ([metrics.balanced_accuracy(y[o], p[o].argmax(1)) for o in owners]),
        "kappa": [metrics.cohen_kappa(y[o], p[o].argmax(1)) for o in owners],
        "AUROC": [metrics.auroc(y[o], p[o]) for o in owners],
        "calibration error": [metrics.expected_calibration_error(y[o], p[o]) for o in owners],
        "log loss": [metrics.log_loss(y[o], p[o]) for o in owners],
    }
    guesses = {"balanced accuracy": 1 / k, "kappa": 0.0, "AUROC": 0.5, "log loss": float(np.log(k))}
    found = []
    for name, scores in values.items():
        known = [score for score in scores if not np.isnan(score)]
        low, high = stats.bootstrap_interval(known) if known else (np.nan, np.nan)
        result = Result(
            name,
            float(np.mean(known)) if known else float("nan"),
            low=None if np.isnan(low) else low,
            high=None if np.isnan(high) else high,
            n=len(known),
            chance=guesses.get(name),
        )
        found.append(result)
    recordings = np.asarray(said["recording"])
    if any(len(np.unique(y[recordings == name])) > 1 for name in np.unique(recordings)):
        found[0].detail["p"] = stats.permutation_chance(
            y, p.argmax(1), metric=balanced, groups=recordings, n_permutations=n_permutations
        ).p
    return found
