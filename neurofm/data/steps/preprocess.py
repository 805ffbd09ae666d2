"""Preprocessing as a list of small declared steps, from a recipe or by default.

Source of the default chain: BrainOmni (arXiv 2505.18185): notch, 0.1-96 Hz, 256 Hz. Here the
band-pass precedes the resampling, so that both filters act at the native rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from neurofm.cards import build
from neurofm.data.steps.filters import Bandpass, Notch, Resample, chained
from neurofm.data.steps.step import Step

_SLOW_OR_COUNTED = {"fmri", "spikes", "calcium"}


def default_steps(modality: str | Sequence[str] | None = None) -> list[Step]:
    """Notch at the card's line frequency, 0.1-96 Hz (or 0.45 of a lower rate), 256 Hz.

    Pass them through `build_steps`, which fills in the line frequency.

    Args:
        modality: Of the dataset card. None of these steps fits images, spikes or calcium: they are
            kept as they are read.
    """
    modalities = {modality} if isinstance(modality, str) else set(modality or ())
    if modalities and modalities <= _SLOW_OR_COUNTED:
        return []
    return [Notch(), Bandpass(0.1, 96.0, too_high="lower"), Resample(256.0)]


def build_steps(
    specs: Sequence[dict[str, Any] | Step] | None, *, line_freq: float | int | None
) -> list[Step]:
    """Steps from a recipe.

    Args:
        specs: `class_path`/`init_args` dicts, or steps already made; None for `default_steps`.
        line_freq: Hz, of the dataset card; used by a `Notch` without frequencies.

    Raises:
        ValueError: A spec that is not a step, or a `Notch` without any frequency.
    """
    steps: list[Step] = []
    for spec in default_steps() if specs is None else specs:
        step = build(spec)
        if not callable(step) or isinstance(step, type):
            raise ValueError(
                f"preprocessing step {spec!r} is not a step. Write {{class_path: "
                "neurofm.data.Bandpass, init_args: {low: 0.1, high: 75}}."
            )
        if isinstance(step, Notch) and step.freqs is None:
            if line_freq is None:
                raise ValueError(
                    "Notch: neither the step nor the dataset card says which line frequency. Set "
                    "`line_freq: 50` (or 60) in the card (`neurofm copy datasets/NAME mine.yaml` "
                    "gives you your own), or `freqs: [50]` in the step."
                )
            step = replace(step, freqs=[float(line_freq)])
        steps.append(step)
    return chained(steps)
