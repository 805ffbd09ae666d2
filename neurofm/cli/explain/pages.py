"""The pages of an explanation: figures with units and uncertainty, and what they say in words."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from neurofm import stats
from neurofm.cli.explain.causal_pages import patching_page, sparse_page
from neurofm.cli.explain.explaining import (
    Evidence,
    Held,
    bands,
    evidence,
    filter_patterns,
    moments,
)
from neurofm.cli.explain.inside import Inside, look_inside
from neurofm.cli.explain.inside_pages import familiar_page, layers_page
from neurofm.cli.explain.synthesising import synthesis_page
from neurofm.evaluate.over_time import at_same_moment
from neurofm.live.decoder import RunDecoder, load_decoder
from neurofm.report import Report, plot_curves, plot_scores, plot_topographies
from neurofm.report.over_time import plot_generalization, plot_over_time
from neurofm.types import OverTime, Result

_SHOWN = 8  # patterns


def explain_run(args: argparse.Namespace) -> int:
    """Compute what was asked for; a method that does not apply says why and leaves the others.

    Raises:
        ValueError: None of the methods applies.
    """
    console = Console()
    decoder = load_decoder(args.run)
    folder = _folder(args.run)
    held = Held(folder, n=args.windows, seed=args.seed)
    people = len(set(held.subjects().tolist()))
    report = Report(
        title=f"What {decoder.facts.name} looks at",
        lead=f"{len(held.chosen)} held-out windows of {people} "
        f"{'person' if people == 1 else 'people'}, {', '.join(decoder.facts.datasets)}.",
    )
    sections: dict[str, Callable[[], None]] = {
        "evidence": lambda: _evidence(report, decoder, held, args.seed),
        "bands": lambda: _bands(report, decoder, held),
        "filters": lambda: _filters(report, decoder, held),
        "moments": lambda: _moments(report, held, args.seed),
    }

    @cache
    def inside() -> Inside:
        return look_inside(decoder, held, sites=args.sites, seed=args.seed)

    sections |= {
        "layers": lambda: layers_page(report, inside()),
        "patching": lambda: patching_page(report, inside()),
        "sparse": lambda: sparse_page(report, inside()),
        "synthesis": lambda: synthesis_page(report, decoder, held, args.seed),
        "familiar": lambda: familiar_page(report, inside()),
    }
    for name in sections if "all" in args.methods else args.methods:
        with console.status(f"{name} ..."):
            try:
                sections[name]()
            except (ValueError, RuntimeError) as error:
                report.add_lines([f"{name}: not possible here. {error}"])
    if not report.sections:
        raise ValueError(" ".join(report.lines))
    if missing := [label for label in held.labels if label not in held.present]:
        report.add_lines([f"There is no held-out window of {', '.join(missing)}."])
    if held.broken:
        where = ", ".join(sorted({str(held.rows[i].recording) for i in held.broken}))
        report.add_lines(
            [f"Left out for NaN or infinite values: {len(held.broken)} windows ({where})."]
        )
    page = report.save(args.out or folder / "explain")
    for line in report.lines:
        console.print(line, highlight=False, markup=False)
    console.print(f"report: {page.resolve()}", highlight=False, soft_wrap=True, markup=False)
    return 0


def _folder(run: Path) -> Path:
    """The folder with the run's config.yaml, whether run, version or checkpoint was named."""
    run = run if run.exists() else Path("runs") / run.stem
    for place in (run, *run.parents):
        if (place / "config.yaml").is_file():
            return place
    found = sorted(run.rglob("config.yaml"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"{run}: no config.yaml in it, above it or below it.")
    return found[-1].parent


def _evidence(report: Report, decoder: RunDecoder, held: Held, seed: int) -> None:
    found = evidence(decoder, held, seed=seed)
    figures: list[tuple[Figure, str]] = []
    try:
        figures.append(
            (
                plot_topographies(
                    found.maps,
                    held.sensors.position,
                    unit="% of all evidence",
                    title="Where the evidence for each class lies",
                    names=held.sensors.names,
                    mark=("C3", "C4", "Cz", "Pz"),
                ),
                "Integrated gradients of the true class, magnitudes summed over time.",
            )
        )
    except ValueError as error:
        report.add_lines([f"No scalp maps: {error}"])
    figures += [_course(found, held), _deletion(found)]
    good = found.similarity < 0.3 and found.deletion.gain > 0 and found.completeness_error < 0.1
    report.add_lines(
        [
            f"Evidence: {_top(found, held)}. Checks: {'passed' if good else 'NOT all passed'} "
            f"(similarity to a random network {found.similarity:.2f}, deletion gain "
            f"{found.deletion.gain:.3f}, integral misses {100 * found.completeness_error:.1f} %)."
        ]
    )
    report.add_section(
        "Evidence over scalp and time",
        text="A map means something only if its gradients change when the weights are random "
        "(similarity near 0), if taking its top channels away lowers the logit more than random "
        "ones (gain above 0), and if the integral adds up to the logit (error near 0).",
        figures=figures,
        table=[
            {
                "check": "similarity of gradients to the same network with random weights",
                "value": found.similarity,
            },
            {
                "check": "deletion: random minus most evidence first (logit)",
                "value": found.deletion.gain,
            },
            {"check": "completeness error of the integral", "value": found.completeness_error},
        ],
    )


def _top(found: Evidence, held: Held) -> str:
    told = []
    for label, values in found.maps.items():
        names = [held.sensors.names[i] for i in np.argsort(-values)[:3]]
        told.append(f"{label} at {', '.join(names)}")
    return "; ".join(told)


def _course(found: Evidence, held: Held) -> tuple[Figure, str]:
    n = len(next(iter(found.course.values())))
    width = max(1, n // 40)
    usable = n // width * width
    time = (
        float(held.data.offset_s) + (np.arange(usable // width) + 0.5) * width / held.windows.sfreq
    )
    curves = {
        label: (time, values[:usable].reshape(-1, width).mean(1))
        for label, values in found.course.items()
    }
    figure = plot_curves(
        curves,
        title="When the evidence comes",
        xlabel="time from the event (s)",
        ylabel="share of all evidence (% per s)",
        references={"even": 100 / (n / held.windows.sfreq)},
    )
    return figure, "The same evidence summed over channels."


def _deletion(found: Evidence) -> tuple[Figure, str]:
    curve = found.deletion
    figure = plot_curves(
        {
            "most evidence first": (100 * curve.fraction, curve.most),
            "least first": (100 * curve.fraction, curve.least),
            "random": (100 * curve.fraction, curve.random),
        },
        title="Does the network use what the map shows?",
        xlabel="channels taken away (%)",
        ylabel="logit of the true class",
    )
    return figure, "If it does, the first curve falls first."


def _bands(report: Report, decoder: RunDecoder, held: Held) -> None:
    found = bands(decoder, held)
    results = []
    for name, values in found.items():
        low, high = stats.bootstrap_interval(values)
        results.append(
            Result(
                name=name,
                value=float(values.mean()),
                unit="logit",
                low=None if np.isnan(low) else low,
                high=None if np.isnan(high) else high,
                n=len(values),
                chance=0.0,
            )
        )
    figure = plot_scores(
        results,
        title="What the decision loses without a band",
        xlabel="fall of the true class's logit",
        percent=False,
    )
    strongest = max(results, key=lambda result: result.value)
    report.add_lines(
        [f"Without {strongest.name} the true class loses most: {strongest.value:.3f} of its logit."]
    )
    report.add_section(
        "Frequency bands",
        text="The band is removed from all channels without phase shift. Bars: mean over people "
        "with its 95 % interval.",
        figures=[(figure, "Above 0: the band carried evidence for the true class.")],
        results=results,
    )


def _filters(report: Report, decoder: RunDecoder, held: Held) -> None:
    site, found = filter_patterns(decoder, held)
    shown = min(_SHOWN, len(found.order))
    maps = {
        f"filter {found.order[i]}: {100 * found.share[i]:.0f} %": found.values[i]
        / np.abs(found.values[i]).max()
        for i in range(shown)
    }
    figure = plot_topographies(
        maps,
        held.sensors.position,
        unit="share of its largest value",
        title=f"Patterns of {site}",
        signed=True,
    )
    report.add_section(
        "Spatial filters",
        text=f"What the first spatial layer ({site}, {len(found.order)} filters) picks up: the "
        "covariance of each filter's output with the channels (Haufe et al. 2014), not its "
        "weights. The share is of the variance of all channels; shares overlap.",
        figures=[(figure, f"The {shown} patterns with most variance.")],
    )


def _moments(report: Report, held: Held, seed: int) -> None:
    found = moments(held, seed=seed)
    curves = {name: at_same_moment(over, seed=seed) for name, over in found.items()}
    best = max(found, key=lambda name: float(found[name].diagonal.mean(0).max()))
    figures = [
        (
            plot_over_time(curves, title="When a linear decoder finds the classes"),
            "Mean over people with its 95 % interval; bars below: above chance in a cluster test "
            "over people (p < 0.05).",
        ),
        (
            plot_generalization(found[best], title=f"From moment to moment: {best}"),
            "Trained at one moment, tested at another; outlined: above chance in a cluster test.",
        ),
    ]
    report.add_lines([_when(name, over) for name, over in curves.items()])
    report.add_section(
        "Decoding over time",
        text="Not the network: linear discriminants on all channels of the same training and test "
        "windows, one for each moment, of amplitudes and of power in the band that the recipe "
        "keeps. Beside the course of the evidence it tells whether the network looks when there "
        "is something to see.",
        figures=figures,
    )


def _when(name: str, over: OverTime) -> str:
    curve = over.diagonal.mean(0)
    best = int(curve.argmax())
    sure: list[Any] = [c for c in over.clusters if c.p < 0.05]
    told = f"{name}: best {100 * curve[best]:.0f} % ({over.metric}) at {over.times[best]:.2f} s"
    if sure:
        return f"{told}; above chance in {len(sure)} cluster(s), smallest p {sure[0].p:.3f}."
    if len(over.subjects) < 5:
        return f"{told}; no cluster test with {len(over.subjects)} people."
    return f"{told}; nothing above chance after the cluster test."
