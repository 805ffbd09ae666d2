"""Figures of a suite, each with the sentence that explains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from neurofm.cli.benchmark.found import PERCENT, WORDS, Found, counted
from neurofm.evaluate.comparisons import Compared, Ranking, reference_of
from neurofm.evaluate.predictions import Predictions
from neurofm.evaluate.scoring import choices, confusion_counts
from neurofm.evaluate.suite_results import Scored
from neurofm.evaluate.suites import READINGS, WEIGHTS
from neurofm.report import (
    Pairs,
    Picture,
    ShareCurve,
    Trend,
    plot_confusions,
    plot_cost,
    plot_critical_difference,
    plot_differences,
    plot_learning_curves,
    plot_people,
    plot_rank_table,
    plot_reliability,
    plot_scores,
    plot_share_curves,
)

Place = tuple[str, str]


def main_figure(found: Found) -> Picture:
    """The one beside the table: learning curves, ranks over places, or the scores."""
    place = found.places[0]
    if len(found.places) > 1:
        return overview(found)
    return shares(found, place) if len(found.shares(place)) > 1 else scores(found, place)


def overview(found: Found) -> Picture:
    """Every method on every data set and protocol."""
    lines = list(dict.fromkeys(item.line for item in found.scored if item.members == 1))
    at = {(i.line, i.place): i.result.value for place in found.places for i in found.at(place)}
    table = [[at.get((line, place), np.nan) for place in found.places] for line in lines]
    drawn = plot_rank_table(
        np.array(table),
        [found.label(line) for line in lines],
        [found.place(place) for place in found.places],
        title=found.suite.card["description"],
        unit=f"mean {found.quantity} over people",
        better=found.better,
        factor=found.factor,
    )
    return Picture.from_figure(
        drawn,
        f"Mean {found.quantity} over people; bold: the best of its column. Methods that were not "
        "run everywhere stand last, without a mean rank.",
    )


def scores(found: Found, place: Place) -> Picture:
    """Methods beside each other, one dot per person."""
    items = found.at(place)
    named = [replace(item.result, name=found.label(item.line)) for item in items]
    people = max(item.result.n or 0 for item in items)
    drawn = plot_scores(
        named,
        title=f"{found.place(place)} ({counted(people)})",
        xlabel=WORDS[found.metric],
        points={r.name: list(i.people.values()) for r, i in zip(named, items, strict=True)},
        percent=found.metric in PERCENT,
    )
    return Picture.from_figure(
        drawn, "Mean with its 95 % interval over people; one dot per person; dashed: a guess."
    )


def shares(found: Found, place: Place) -> Picture:
    """Scores against the share of the labels, one panel per model."""
    own = [item for item in found.scored if item.place == place]
    panels: dict[str, list[ShareCurve]] = {}
    baselines = []
    for line in dict.fromkeys(item.line for item in own if item.members == 1):
        items = sorted((i for i in own if i.line == line), key=lambda item: item.share)
        method, weights, reading = line
        values = [found.factor * item.result.value for item in items]
        at = [item.share for item in items]
        if weights == "none":
            baselines.append(ShareCurve(found.title(method), at, values))
            continue
        ends = [(item.result.low, item.result.high) for item in items]
        drawn = all(low is not None and high is not None for low, high in ends)
        curve = ShareCurve(
            label=f"{reading}, {weights}",
            shares=at,
            values=values,
            low=[found.factor * (low or 0) for low, _ in ends] if drawn else None,
            high=[found.factor * (high or 0) for _, high in ends] if drawn else None,
            hue=READINGS.index(reading) if reading in READINGS else 2,
            dashed=weights == WEIGHTS[1],
        )
        panels.setdefault(found.title(method), []).append(curve)
    people = max(item.result.n or 0 for item in own)
    several = len(found.places) > 1
    title = found.place(place) if several else found.suite.card["description"]
    figure = plot_share_curves(
        panels or {"without pretraining": []},
        baselines,
        chance=found.factor * (own[0].result.chance or 0),
        ylabel=found.quantity,
        title=f"{title} ({counted(people)})",
        trials={item.share: item.trials for item in own},
    )
    return Picture.from_figure(
        figure,
        "Mean over people; shaded: 95 % interval over people. Solid: pretrained, dashed: random "
        "weights; grey: methods without pretraining.",
    )


def confusions(found: Found, place: Place) -> Picture | None:
    """Windows by true and predicted class; None without predictions."""
    items = [item for item in found.at(place) if item.predictions is not None]
    counts = {found.label(i.line): _counts(i.predictions) for i in items if i.predictions}
    if not counts:
        return None
    labels = [name.replace("_", " ") for name in items[0].classes]
    drawn = plot_confusions(counts, labels, title=f"Confusions: {found.place(place)}")
    return Picture.from_figure(
        drawn,
        "Share of each true class that was given each class, and the number of held-out windows "
        "(mean over seeds). Windows whose classes are equally likely count in parts.",
    )


def _counts(predictions: Predictions) -> np.ndarray:
    return confusion_counts(predictions.y, predictions.p) / len(np.unique(predictions.seed))


def reliability(found: Found, place: Place) -> Picture | None:
    """Confidence against how often it was right; None without predictions."""
    drawn, errors = {}, {}
    for item in found.at(place):
        made = item.predictions
        if made is None:
            continue
        name = found.label(item.line)
        right = choices(made.p)[np.arange(len(made.y)), made.y]
        drawn[name] = (made.p.max(1), right, made.person.tolist())
        errors[name] = item.results["calibration_error"].value
    if not drawn:
        return None
    figure = plot_reliability(
        drawn,
        title=f"Reliability: {found.place(place)}",
        lowest=1 / len(found.at(place)[0].classes),
        errors=errors,
    )
    return Picture.from_figure(
        figure,
        "How often decoders are right (95 % interval over people) when they are so sure; on the "
        "diagonal they are honest, below it too sure. Error: expected calibration error of a "
        "person, the mean over people; few windows make it larger than it is.",
    )


def against(found: Found, place: Place) -> list[Picture]:
    """Differences to the reference, and every person beside it."""
    top = max(found.shares(place))
    own = [
        item
        for item in found.versus
        if (item.dataset, item.protocol) == place and item.share == top
    ]
    if not own:
        return []
    named = [replace(item.result, name=found.label(item.line)) for item in own]
    unit = "percentage points" if found.factor == 100 else WORDS[found.metric]
    forest = plot_differences(
        named,
        title=f"Minus {found.reference}: {found.place(place)}",
        quantity=f"difference in {WORDS[found.metric]} ({unit})",
        factor=found.factor,
    )
    chance = found.at(place)[0].result.chance
    dots = plot_people(
        {found.label(item.line): _pairs(found, place, item) for item in own},
        reference=found.reference,
        quantity=found.quantity,
        title=f"Every person against {found.reference}: {found.place(place)}",
        factor=found.factor,
        chance=chance,
    )
    corrected = "p of a paired sign-flip test, corrected for false discoveries"
    return [
        Picture.from_figure(
            forest, f"Mean difference over people, 95 % interval; {corrected}; filled: below 0.05."
        ),
        Picture.from_figure(
            dots,
            "One dot per person; above the dashed diagonal the method is better. Dotted: a guess. "
            f"In the corner: mean difference, 95 % interval, {corrected}.",
        ),
    ]


def _pairs(found: Found, place: Place, compared: Compared) -> Pairs:
    item = next(i for i in found.at(place) if i.line == compared.line)
    base = reference_of(found.scored, compared.against[0], item)
    both = [name for name in item.people if base is not None and name in base.people]
    first = [] if base is None else [base.people[name] for name in both]
    return Pairs(first, [item.people[name] for name in both], compared.result)


def ranking(found: Found, ranked: Ranking) -> Picture:
    """A critical-difference diagram."""
    where = (
        found.place((ranked.dataset, ranked.protocol))
        if ranked.dataset
        else str(ranked.protocol).replace("_", " ")
    )
    drawn = plot_critical_difference(
        [found.label(line) for line in ranked.lines],
        ranked.ranks,
        difference=ranked.critical_difference,
        title=f"{where}: {ranked.n} {ranked.over}",
    )
    p = "< 0.001" if ranked.p < 0.001 else f"{ranked.p:.3f}"
    left_out = f" Left out: {'; '.join(ranked.left_out)}." if ranked.left_out else ""
    return Picture.from_figure(
        drawn,
        f"Average ranks over {ranked.n} {ranked.over}. Friedman's test: {ranked.statistic:.1f}, "
        f"{len(ranked.lines) - 1} degrees of freedom, p {p}; critical difference: Nemenyi, 5 %."
        + left_out,
    )


def cost(found: Found, place: Place) -> Picture:
    """Score against processor time."""
    items = found.at(place)
    drawn = plot_cost(
        {found.label(i.line): (i.decoder_s, i.result, i.parameters) for i in items},
        ylabel=found.quantity,
        title=f"Score against compute: {found.place(place)}",
        chance=items[0].result.chance,
        factor=found.factor,
    )
    return Picture.from_figure(
        drawn,
        "Processor time of training and testing one decoder (one fold, one seed; all seeds where "
        "they decide together), with its share of pretraining; bars: 95 % interval over people.",
    )


def learning_curves(found: Found) -> list[Picture]:
    """Scores against trials per class and against people to train on, where there are several."""
    pictures = []
    for dataset in dict.fromkeys(item.dataset for item in found.scored):
        own = [i for i in found.scored if i.dataset == dataset and i.members == 1 and i.classes]
        families: dict[str, list[Scored]] = {}
        for item in own:
            families.setdefault(_family(found, item.protocol), []).append(item)
        for family, items in families.items():
            name = found.place((dataset, items[0].protocol))
            if len({i.protocol for i in items}) > 1:
                name = found.place((dataset, "")) + f" {family}".replace("_", " ")
            if len({round(i.trials) for i in items}) > 1 and not _by_people(items):
                pictures.append(_curve(found, items, name, "training trials per class", "trials"))
            if _by_people(items):
                pictures.append(_curve(found, items, name, "people to train on", "people"))
    return pictures


def _family(found: Found, protocol: str) -> str:
    """Protocols that differ in the number of trials or of people alone: their function."""
    return str(found.suite.card["protocols"].get(protocol, {}).get("folds", protocol))


def _by_people(items: Sequence[Scored]) -> bool:
    several = len({item.protocol for item in items}) > 1
    return several and len({i.train_people for i in items if i.train_people is not None}) > 1


def _curve(found: Found, items: Sequence[Scored], name: str, words: str, kind: str) -> Picture:
    by_line: dict[str, dict[float, Scored]] = {}
    for item in items:
        people = item.train_people or 0.0
        x = item.trials / max(len(item.classes), 1) if kind == "trials" else people
        by_line.setdefault(found.label(item.line), {})[x] = item
    trends = {
        label: Trend(sorted(own), [own[x].result for x in sorted(own)])
        for label, own in by_line.items()
    }
    drawn = plot_learning_curves(
        trends,
        xlabel=f"{words} (logarithmic axis)",
        ylabel=found.quantity,
        title=f"Learning curves: {name}",
        chance=items[0].result.chance,
        factor=found.factor,
    )
    return Picture.from_figure(
        drawn, f"Mean over people against {words}; bars: 95 % interval over people."
    )
