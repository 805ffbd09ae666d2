"""Signals that a run takes most for each class, beside real windows and an untrained network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from neurofm.batch import Batch
from neurofm.cli.explain.explaining import Held, function_of
from neurofm.figures import plot_spectra, plot_topographies
from neurofm.interpret.synthesis import Logit, SpectralPrior, Synthesis, maximise
from neurofm.live.decoder import RunDecoder
from neurofm.report import Report

_STEPS, _RESTARTS = 150, 4
_MOST_DB = 10.0  # above the spectrum of real windows
_SAME = 1e-4  # range of logits of real windows


@dataclass(frozen=True)
class Synthesised:
    """What maximises each class.

    Args:
        by_label: Label to result.
        batch: Real windows it is compared with.
    """

    by_label: dict[str, Synthesis]
    batch: Batch


def synthesised(decoder: RunDecoder, held: Held, *, seed: int) -> Synthesised:
    """Maximise the margin of each class over the other, or its logit where there are more.

    Raises:
        ValueError: No gradient reaches the signal, all windows are the same to the network, or the
            recordings differ in their channels.
    """
    if not held.same_sensors:
        raise ValueError("synthesis: the recordings have different channels.")
    batch = held.windows.batch(held.chosen)
    prior = SpectralPrior.of(batch, most_db=_MOST_DB)
    two = len(held.labels) == 2
    found = {
        label: maximise(
            decoder,
            Logit(i, 1 - i if two else None, name=label),
            prior,
            windows=batch,
            run=function_of(decoder),
            steps=_STEPS,
            restarts=_RESTARTS,
            seed=seed,
        )
        for i, label in enumerate(held.labels)
    }
    if max(float(np.ptp(one.real)) for one in found.values()) < _SAME:
        raise ValueError("synthesis: the network says the same of all windows; it wants nothing.")
    return Synthesised(found, batch)


def synthesis_page(report: Report, decoder: RunDecoder, held: Held, seed: int) -> None:
    """Spectra, topographies and how far they can be believed."""
    found = synthesised(decoder, held, seed=seed)
    report.add_lines([f"Synthesis: {'; '.join(_told(k, v) for k, v in found.by_label.items())}."])
    figures = [
        (_spectra(found), "Mean over channels; band of the real ones: middle 95 % of windows.")
    ]
    names, position = held.sensors.names, held.sensors.position
    try:
        maps = {
            f"{label}, {one.peak_hz:.1f} Hz": one.topography()
            for label, one in found.by_label.items()
        }
        figures.append(
            (
                plot_topographies(
                    maps,
                    position,
                    unit="amplitude (root mean square)",
                    title="Where the signals lie that each class wants most",
                    names=names,
                    mark=("C3", "C4", "Cz", "Pz"),
                    signed=False,
                ),
                "At the frequency where each signal has most power compared with real windows.",
            )
        )
    except ValueError as error:
        report.add_lines([f"No scalp maps of the synthesis: {error}"])
    figures += [
        (
            one.plot(),
            f"{label}: the search, and its tuning measured again with tones on real windows.",
        )
        for label, one in found.by_label.items()
    ]
    unit = "logit, class minus other" if len(held.labels) == 2 else "logit"
    report.add_section(
        "Signals that each class wants most",
        text="Signals found by climbing the gradient, with the spectrum of real windows: no "
        f"frequency more than {_MOST_DB:g} dB above its usual amplitude, no channel louder than in "
        "real windows. What a network wants most may be something it never meets: the percentile "
        "says how many held-out windows are below it, the flag whether it beats all of them with a "
        "spectrum that none has. Control: the same search in the network with random weights, "
        "whose signals are then shown to the trained one; if they do as well, the search and not "
        f"the training made them. Numbers: {unit}.",
        figures=figures,
        table=[_row(label, one) for label, one in found.by_label.items()],
    )


def _told(label: str, one: Synthesis) -> str:
    names = one.sensors.names if one.sensors is not None else ()
    where = f" at {names[int(np.argmax(one.topography()))]}" if names else ""
    return (
        f"{label} wants {one.peak_hz:.1f} Hz{where} (margin {one.best:.2g}, above "
        f"{round(one.percentile)} % of real windows; signals of a random network "
        f"{_control(one):.2g}{'; UNREALISTIC' if one.flagged else ''})"
    )


def _control(one: Synthesis) -> float:
    return float("nan") if one.control_values is None else float(one.control_values[0])


def _row(label: str, one: Synthesis) -> dict[str, object]:
    return {
        "class": label,
        "reached": round(one.best, 2),
        "real below (%)": round(one.percentile, 1),
        "best real": round(float(one.real.max()), 2),
        "control": round(_control(one), 2),
        "usual spectrum": "yes" if one.realistic else "no",
        "unrealistic": "yes" if one.flagged else "no",
    }


def _inside(power: np.ndarray) -> np.ndarray:
    """Without what the prior leaves empty."""
    return np.where(power > 1e-8 * power.max(), power, np.nan)


def _spectra(found: Synthesised) -> Figure:
    first = next(iter(found.by_label.values()))
    frequency, _ = first.spectrum()
    x = found.batch.x.double().numpy()
    n = x.shape[-1]
    power = np.abs(np.fft.rfft(x - x.mean(-1, keepdims=True))) ** 2 * 2 / (found.batch.sfreq * n)
    each = power.mean(1)
    spectra = {
        label: (frequency, _inside(one.spectrum()[1].mean(0)))
        for label, one in found.by_label.items()
    }
    spectra["real windows"] = (frequency, each.mean(0), *np.quantile(each, (0.025, 0.975), axis=0))
    band = found.batch.band
    return plot_spectra(
        spectra,
        title="Spectra of the signals that each class wants most",
        ylabel=f"power density ({first.unit}²/Hz)",
        high=band[1] * 1.2 if band is not None else None,
    )
