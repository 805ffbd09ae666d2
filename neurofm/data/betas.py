"""One activity pattern per trial: betas of a general linear model.

LSA estimates all trials in one model; with trials close together their regressors overlap and the
estimates scatter. LSS fits one model per trial, in which all other trials share a regressor (of
their condition, or one for all). Drifts and confounds are removed from both sides first, which
leaves every beta as it would be with them in the model.

Source: Mumford et al. 2012 (LSA, LSS); Hoerl & Kennard 1970 (ridge).
Axes: channel = voxel or parcel, time = volume, trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from neurofm.cards import configured
from neurofm.data.hrf import CANONICAL, DoubleGamma, frame_times, trial_regressors
from neurofm.data.steps.bold import CleanBold, is_bold
from neurofm.io.quality import matches
from neurofm.shapes import Float
from neurofm.types import Event, Signal

_ROWS = 2 << 20  # float64 values worked on at a time


def lsa_weights(
    trials: Float[np.ndarray, "time trial"], *, ridge: float = 0.0
) -> Float[np.ndarray, "trial time"]:
    """Betas = weights @ time series: least squares with all trials in one model.

    Args:
        trials: Regressors, nuisance already removed.
        ridge: Penalty as a share of the mean squared norm of the regressors.

    Raises:
        ValueError: The regressors are not independent and there is no penalty.
    """
    gram = trials.T @ trials
    size = float(np.trace(gram)) / max(len(gram), 1)
    values = np.linalg.eigvalsh(gram) if len(gram) else np.ones(1)
    if ridge <= 0 and values[0] < 1e-10 * values[-1]:
        raise ValueError(
            f"single-trial betas: the regressors of {len(gram)} trials are not independent (too "
            "many trials for the volumes, or two at the same time). Use method lss or a ridge."
        )
    return np.linalg.solve(gram + ridge * size * np.eye(len(gram)), trials.T)


def lss_weights(
    trials: Float[np.ndarray, "time trial"],
    groups: Sequence[str] | None = None,
    *,
    ridge: float = 0.0,
) -> Float[np.ndarray, "trial time"]:
    """Betas = weights @ time series: for each trial a model of it and the sum of the others.

    Args:
        trials: Regressors, nuisance already removed.
        groups: Condition of each trial; the others then have one regressor per condition.
        ridge: As for `lsa_weights`.
    """
    n_times, n = trials.shape
    names = sorted(set(groups)) if groups is not None else [""]
    own = [groups[i] if groups is not None else "" for i in range(n)]
    sums = {name: trials[:, [o == name for o in own]].sum(axis=1) for name in names}
    weights = np.zeros((n, n_times))
    for i in range(n):
        others = [sums[name] - trials[:, i] * (own[i] == name) for name in names]
        model = np.stack([trials[:, i], *(o for o in others if (np.abs(o) > 1e-12).any())], axis=1)
        gram = model.T @ model
        size = float(np.trace(gram)) / len(gram)
        penalised = gram + ridge * size * np.eye(len(gram))
        weights[i] = (np.linalg.pinv(penalised, rcond=1e-10) @ model.T)[0]
    return weights


@configured
@dataclass(frozen=True)
class SingleTrialBetas:
    """A run becomes one pattern per trial: channel x trial, an event each.

    The result has one sample per trial and says so (`details["samples"]` is "trials"); its clock
    counts trials, one a second: cut windows of 1 s. Onsets in the run are kept in the details.

    Args:
        labels: Names or wildcards of the events that are trials; all but BAD and EDGE marks.
        method: "lss" or "lsa".
        by_condition: LSS: other trials have a regressor per label instead of one for all.
        ridge: Penalty, a share of the mean squared norm of the regressors.
        detrend: Degree of the polynomial in the model.
        high_pass_hz: Cosine drifts below this frequency in the model.
        confounds: As for `CleanBold`.
        delay_s: Shift of the canonical response.
        at: When in a volume its samples were taken, as a share of the repetition time.
    """

    labels: Sequence[str] = ("*",)
    method: Literal["lss", "lsa"] = "lss"
    by_condition: bool = False
    ridge: float = 0.0
    detrend: int | None = 1
    high_pass_hz: float | None = None
    confounds: Sequence[str] = ()
    delay_s: float = 0.0
    at: float = 0.0

    by_channel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.method not in ("lss", "lsa") or self.ridge < 0:
            raise ValueError(
                f"SingleTrialBetas: method {self.method!r}, ridge {self.ridge}; expected lss or "
                "lsa and 0 or more."
            )

    def __call__(self, signal: Signal) -> Signal:
        """The patterns.

        Raises:
            ValueError: No trial, or regressors that cannot be told apart.
        """
        trials = [event for event in signal.events if self._is_trial(event)]
        trials = [event for event in trials if -60 < event.onset < signal.duration]
        if not trials:
            raise ValueError(
                f"{signal.recording.id}: SingleTrialBetas: no event fits {list(self.labels)}; "
                f"there are {sorted({event.label for event in signal.events})}."
            )
        clean = CleanBold(self.detrend, self.high_pass_hz, self.confounds)
        regressors = self._regressors(signal, trials, clean)
        if self.method == "lsa":
            weights = lsa_weights(regressors, ridge=self.ridge)
        else:
            groups = [event.label for event in trials] if self.by_condition else None
            weights = lss_weights(regressors, groups, ridge=self.ridge)
        brain = signal.pick(np.flatnonzero(is_bold(signal)))
        data = np.empty((len(brain.sensors), len(trials)), dtype=np.float32)
        step = max(1, _ROWS // signal.data.shape[1])
        for lo in range(0, len(data), step):
            # The weights are orthogonal to what was removed from the regressors.
            data[lo : lo + step] = brain.data[lo : lo + step].astype(np.float64) @ weights.T
        line = f"betas of {len(trials)} trials ({self.method}, ridge {self.ridge:g})"
        return replace(
            brain,
            data=data,
            sfreq=1.0,
            events=tuple(Event(float(i), 1.0, event.label) for i, event in enumerate(trials)),
            history=(*signal.history, line),
            details={
                **signal.details,
                "samples": "trials",
                "trial_onset_s": [event.onset for event in trials],
            },
        )

    def _is_trial(self, event: Event) -> bool:
        marks = event.label.upper().startswith(("BAD", "EDGE"))
        return not marks and matches(event.label, self.labels)

    def _regressors(
        self, signal: Signal, trials: Sequence[Event], clean: CleanBold
    ) -> Float[np.ndarray, "time trial"]:
        times = frame_times(signal.data.shape[1], signal.sfreq, at=self.at)
        hrf = DoubleGamma(**{**vars(CANONICAL), "delay_s": self.delay_s})
        regressors = trial_regressors(trials, times, hrf=hrf)
        basis = clean.basis(signal)
        return regressors - basis @ (basis.T @ regressors)
