"""Pages on the inside of a network: which layer knows the class, and what it is used to."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from neurofm.cli.explain.familiar import familiar
from neurofm.cli.explain.inside import Inside, Place, layers
from neurofm.figures import plot_curves
from neurofm.figures.style import slant
from neurofm.interpret.monitoring import Detections
from neurofm.interpret.probing import Probe
from neurofm.interpret.probing.layers import UNTRAINED
from neurofm.report import Report
from neurofm.types import Result

_ALWAYS = 99


def layers_page(report: Report, inside: Inside) -> None:
    """Probes of every site with their controls, and how alike the sites are."""
    found = layers(inside)
    probes = {place.label: found.probes.layers[place.name] for place in inside.places}
    best = max(probes, key=lambda name: probes[name].score)
    top = probes[best]
    signal = max(found.probes.signal.items(), key=lambda item: item[1].score, default=None)
    beside = "" if signal is None else f", {signal[0]} of the signal {percent(signal[1].score)}"
    line = (
        f"Layers: the class is read best at {best}, {_scored(top)} (chance {percent(top.chance)}, "
        f"shuffled labels {percent(top.control)}, random weights "
        f"{percent(top.baselines[UNTRAINED])}{beside})."
    )
    ahead = max(top.baselines[UNTRAINED], top.control, signal[1].score if signal else 0.0)
    line += _depth(inside, list(probes.values()), top, ahead)
    report.add_lines([line])
    people = len(top.folds)
    figures = [
        (
            _labelled(found.probes.plot(), inside.places),
            f"Fitted on {found.n[0]} training windows, tested on {found.n[1]} held-out ones. Mean "
            f"over {people} held-out people" + (" with its 95 % interval." if people > 2 else "."),
        )
    ]
    if len(inside.places) > 1:
        figures.append(
            (
                _relabelled(found.similarity.plot(), inside.places),
                "How alike layers see held-out windows: 1 is the same but for rotation and scale. "
                "Features are those of the probes.",
            )
        )
    report.add_section(
        "Which layer knows the class",
        text="A linear probe on mean and spread of every unit over time, and over channels where a "
        "layer has mixed them. It tells what can be "
        "read off a layer, not what the network uses: see patching for that. A layer has earned "
        "something only above the same network with random weights and above plain features of "
        "the signal; the probe is too strong where shuffled labels are above chance. "
        "Accuracy is balanced; selectivity is what lies above shuffled labels, in points. "
        + found.no_signal,
        figures=figures,
        table=[_row(name, probe) for name, probe in probes.items()]
        + [_row(f"signal: {name}", probe) for name, probe in found.probes.signal.items()],
    )


def _depth(inside: Inside, probes: list[Probe], top: Probe, ahead: float) -> str:
    if top.score <= top.chance or (not np.isnan(top.low) and top.low <= top.chance):
        return " Not above chance: no layer knows."
    if top.score <= ahead:
        return " No layer is better than all of these: training has added nothing to read."
    if len(inside.ends) > 1 or len(probes) < 2:
        return ""
    scores = np.array([probe.score for probe in probes])
    limit = top.chance + 0.95 * (top.score - top.chance)
    first = inside.places[int(np.argmax(scores >= limit))].label
    return f" 95 % of it is reached at {first}."


def _row(name: str, probe: Probe) -> dict[str, Any]:
    known = not np.isnan(probe.low)
    return {
        "features": name,
        "accuracy (%)": round(100 * probe.score, 1),
        "95 % interval": f"{100 * probe.low:.1f} to {100 * probe.high:.1f}" if known else "",
        "selectivity": round(100 * probe.selectivity, 1),
        "random weights (%)": round(100 * probe.baselines[UNTRAINED], 1)
        if probe.baselines
        else None,
    }


def percent(value: float) -> str:
    """A share, in percent."""
    return "unknown" if np.isnan(value) else f"{round(100 * value)} %"


def _scored(probe: Probe) -> str:
    between = "" if np.isnan(probe.low) else f" [{100 * probe.low:.0f}, {100 * probe.high:.0f}]"
    return f"{percent(probe.score)}{between}"


def _labelled(figure: Figure, places: tuple[Place, ...]) -> Figure:
    """Sites on the horizontal axis under their short names."""
    (axes, *_) = figure.axes
    axes.set_xticks(range(len(places)), [place.label for place in places])
    slant(axes, _ALWAYS)
    return figure


def _relabelled(figure: Figure, places: tuple[Place, ...]) -> Figure:
    axes = figure.axes[0]
    axes.set_yticks(range(len(places)), [place.label for place in places])
    return _labelled(figure, places)


def familiar_page(report: Report, inside: Inside) -> None:
    """Is what is held out like what it was trained on, and are activations sound?"""
    found = familiar(inside)
    first = next(iter(found.held_out.scores))
    who = "people" if found.new_people else "recordings of the same people"
    seen = found.seen
    bad, massive = sum(seen.wrong.values()), sum(seen.massive.values())
    ratios = {place.label: seen.largest[place.name] for place in inside.places}
    largest = max(float(np.nanmax(x)) for x in ratios.values() if np.isfinite(x).any())
    judged = {name: d for name, d in found.held_out.scores.items()}
    sure = [name for name, d in judged.items() if not np.isnan(d.low) and d.low > 0.5]
    verdict = (
        f"held-out {who} are less familiar by {', '.join(sure)}"
        if sure
        else f"held-out {who} are not sure to be less familiar by any score"
    )
    report.add_lines(
        [
            f"Familiar: {verdict} ({_told(found.held_out)}; chance 0.50; with noise "
            f"{found.noise[first].auroc:.2f} by {first}). {bad} values are not finite, {massive} "
            f"massive; the largest is {largest:.0f} medians."
        ]
    )
    report.add_section(
        "Familiar or not",
        text=f"Three scores of how familiar a window is: coverage of the states of all units, and "
        f"distances at {found.site} from {found.n[0]} training windows. AUROC: how often one of "
        f"{found.n[1]} other training windows is more familiar than one of {found.n[2]} held-out "
        f"windows ({who}). Two controls: the network with random weights, whose scores know the "
        "signal alone; and the training windows with noise, which a useful score must tell apart. "
        "A network has also seen the training windows themselves, so part of the difference is "
        "memory. Massive activations are above 100 and above 1000 medians of their window.",
        figures=[
            (found.held_out.plot(), f"Held-out {who} against training windows."),
            (found.held_out[first].plot(), f"Scores of windows by {first}."),
            (_massive(ratios), "Largest magnitude over the median of its window, by layer."),
        ],
        results=[
            Result(
                name=f"{name}: {what}",
                value=one.auroc,
                unit="AUROC",
                low=None if np.isnan(one.low) else one.low,
                high=None if np.isnan(one.high) else one.high,
                n=None if one.n_groups is None else sum(one.n_groups),
                chance=one.chance,
            )
            for what, scores in (
                ("held out", found.held_out),
                ("held out, random weights", found.random),
                ("with noise", found.noise),
            )
            for name, one in scores.scores.items()
        ],
        table=[
            {
                "layer": place.label,
                "not finite": seen.wrong[place.name],
                "massive": seen.massive[place.name],
                "largest / median": float(np.nanmax(seen.largest[place.name])),
            }
            for place in inside.places
        ],
    )


def _told(found: Detections) -> str:
    return ", ".join(
        f"{name} {one.auroc:.2f}"
        + ("" if np.isnan(one.low) else f" [{one.low:.2f}, {one.high:.2f}]")
        for name, one in found.scores.items()
    )


def _massive(ratios: dict[str, np.ndarray]) -> Figure:
    places = np.arange(len(ratios))
    ends = np.array([np.nanquantile(x, (0.5, 0.025, 0.975)) for x in ratios.values()]).T
    figure = plot_curves(
        {"median over windows (band: 95 %)": (places, *ends)},
        title="Largest activations",
        xlabel="layer",
        ylabel="magnitude / median",
        references={"100 medians": 100.0, "1000 medians": 1000.0},
        log=True,
    )
    (axes, *_) = figure.axes
    axes.set_xticks(places, list(ratios))
    slant(axes, _ALWAYS)
    return figure
