"""Table, figure and report of a suite, made of its records alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurofm.evaluate.records import Record, write_text
from neurofm.evaluate.suite_results import (
    Compared,
    Line,
    Scored,
    against_reference,
    pretraining_cost,
    pretraining_gain,
    score,
)
from neurofm.evaluate.suites import READINGS, WEIGHTS, Suite
from neurofm.report import Picture, Report, ShareCurve, plot_share_curves

TABLE, RESULTS, FIGURE = "table.md", "results.csv", "figure.png"


def write_results(suite: Suite, records: Sequence[Record], out: Path) -> list[Path]:
    """Write `table.md`, `results.csv`, `figure.png` and `report.html`; their paths."""
    scored = scored_of(suite, records)
    gains = pretraining_gain(scored)
    versus = against_reference(scored, suite.card["reference"])
    write_text(out / TABLE, markdown(suite, records, scored, gains, versus))
    write_text(out / RESULTS, comma_separated(suite, records, scored, gains, versus))
    picture = figure(suite, scored)
    (out / FIGURE).write_bytes(picture.png)
    report = Report(f"neurofm benchmark {suite.name}", lead=_about(suite, scored))
    report.add_section(
        "Scores",
        text=suite.card["description"],
        figures=[picture],
        table=_table_rows(suite, records, scored),
    )
    report.add_section("Pretrained minus random weights", table=_gain_rows(suite, gains))
    report.add_section(
        f"Minus {_title(suite, suite.card['reference'])}", table=_gain_rows(suite, versus)
    )
    report.add_section("What else was tried", text=str(suite.card.get("notes", "")))
    return [out / TABLE, out / RESULTS, out / FIGURE, report.save(out)]


def scored_of(suite: Suite, records: Sequence[Record]) -> list[Scored]:
    """Scores in the order of the suite."""
    chance = 1 / len(suite.card["data"]["labels"])
    return score(records, metric=suite.card["metric"], chance=chance, order=list(suite.methods))


def _title(suite: Suite, method: str) -> str:
    return str(suite.methods[method].get("title", method))


def _about(suite: Suite, scored: Sequence[Scored]) -> str:
    datasets = ", ".join(suite.card["data"]["datasets"])
    people = max(item.result.n or 0 for item in scored)
    seeds = min(item.seeds for item in scored)
    return (
        f"{datasets}: {people} people, trained on runs {', '.join(suite.runs['train'])}, tested on "
        f"run {', '.join(suite.runs['test'])}; {seeds} seeds"
    )


def _percent(item: Scored) -> str:
    r = item.result
    interval = (
        "" if r.low is None or r.high is None else f" [{100 * r.low:.0f}, {100 * r.high:.0f}]"
    )
    return f"{100 * r.value:.1f}{interval}"


def _shares(scored: Sequence[Scored]) -> dict[float, str]:
    """Share to its column name."""
    trials = {item.share: item.trials for item in scored}
    return {s: f"{100 * s:g} % ({trials[s]:.0f} trials)" for s in sorted(trials)}


def _table_rows(
    suite: Suite, records: Sequence[Record], scored: Sequence[Scored]
) -> list[dict[str, Any]]:
    shares, cost = _shares(scored), pretraining_cost(records)
    lines: dict[Line, dict[str, Any]] = {}
    for item in scored:
        method, weights, reading = item.line
        spec = suite.methods[method]
        known = "–" if weights != "pretrained" else "yes" if _labels(spec) else "no"
        row = lines.setdefault(
            item.line,
            {
                "method": _title(suite, method),
                "weights": weights.replace("none", "–"),
                "read by": reading.replace("trained", "–"),
                "labels in pretraining": known,
                **dict.fromkeys(shares.values(), ""),
                "pretraining, CPU min": (
                    f"{cost.get(method, 0) / 60:.1f}" if weights == "pretrained" else "–"
                ),
                "decoding, CPU min": 0.0,
            },
        )
        row[shares[item.share]] = _percent(item)
        row["decoding, CPU min"] += item.cpu_s / 60
    return [
        row | {"decoding, CPU min": f"{row['decoding, CPU min']:.1f}"} for row in lines.values()
    ]


def _labels(spec: Any) -> bool:
    return bool(spec.get("labels_in_pretraining", False))


def _gain_rows(suite: Suite, compared: Sequence[Compared]) -> list[dict[str, Any]]:
    shares = {s: f"{100 * s:g} %" for s in sorted({item.share for item in compared})}
    lines: dict[Line, dict[str, Any]] = {}
    for item in compared:
        method, weights, reading = item.line
        row = lines.setdefault(
            item.line,
            {
                "method": _title(suite, method),
                "weights": weights.replace("none", "–"),
                "read by": reading.replace("trained", "–"),
                **dict.fromkeys(shares.values(), ""),
            },
        )
        r = item.result
        interval = (
            "" if r.low is None or r.high is None else f" [{100 * r.low:+.0f}, {100 * r.high:+.0f}]"
        )
        p, adjusted = r.detail["p"], r.detail["p_fdr"]
        row[shares[item.share]] = f"{100 * r.value:+.1f}{interval}, p {_p(p)} ({_p(adjusted)})"
    return list(lines.values())


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def markdown(
    suite: Suite,
    records: Sequence[Record],
    scored: Sequence[Scored],
    gains: Sequence[Compared],
    versus: Sequence[Compared],
) -> str:
    """The table as a page."""
    metric = suite.card["metric"].replace("_", " ")
    reference = _title(suite, suite.card["reference"])
    parts = [
        f"# {suite.card['description']}",
        f"{_about(suite, scored)}. Each person is scored on the test run; a person's score is the "
        f"mean over seeds. Cells: mean {metric} over people in percent [95 % bootstrap interval "
        f"over people]; chance {100 * (scored[0].result.chance or 0):.0f}. CPU minutes are "
        "processor time of all folds, seeds and shares together.",
        _grid(_table_rows(suite, records, scored)),
        "## Pretrained minus random weights",
        "Percentage points, paired over people [95 % interval], p of a sign-flip test (in brackets "
        "corrected for false discoveries among all tests of this table).",
        _grid(_gain_rows(suite, gains)),
        f"## Minus {reference}",
        "The same against the reference at the same share of labels.",
        _grid(_gain_rows(suite, versus)),
    ]
    if suite.card.get("notes"):
        parts += ["## Notes", str(suite.card["notes"]).strip()]
    tried = suite.card.get("tried")
    if tried:
        parts += ["## What was tried", str(suite.card.get("tried_about", "")).strip(), _grid(tried)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _grid(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "(nothing yet)"
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row.get(n, "")) for n in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def comma_separated(
    suite: Suite,
    records: Sequence[Record],
    scored: Sequence[Scored],
    gains: Sequence[Compared],
    versus: Sequence[Compared],
) -> str:
    """One line per method, weights, reading and share, with both comparisons."""
    cost = pretraining_cost(records)
    more = {
        "gain": {(item.line, item.share): item.result for item in gains},
        "over_reference": {(item.line, item.share): item.result for item in versus},
    }
    rows = []
    for item in scored:
        method, weights, reading = item.line
        row: dict[str, Any] = {
            "method": method,
            "weights": weights,
            "reading": reading,
            "share": item.share,
            "trials": f"{item.trials:g}",
            suite.card["metric"]: _number(item.result.value),
            "low": _number(item.result.low),
            "high": _number(item.result.high),
            "chance": _number(item.result.chance),
            "people": item.result.n,
            "seeds": item.seeds,
            "labels_in_pretraining": weights == "pretrained" and _labels(suite.methods[method]),
            "decoding_cpu_s": f"{item.cpu_s:.1f}",
            "pretraining_cpu_s": f"{cost.get(method, 0) if weights == 'pretrained' else 0:.1f}",
        }
        for name, found in more.items():
            r = found.get((item.line, item.share))
            for key in ("value", "low", "high"):
                row[f"{name}_{key}"] = _number(None if r is None else getattr(r, key))
            for key in ("p", "p_fdr"):
                row[f"{name}_{key}"] = _number(None if r is None else r.detail[key])
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def figure(suite: Suite, scored: Sequence[Scored]) -> Picture:
    """Accuracy against the share of labels."""
    panels: dict[str, list[ShareCurve]] = {}
    baselines = []
    for line in dict.fromkeys(item.line for item in scored):
        own = [item for item in scored if item.line == line]
        method, weights, reading = line
        values = [100 * item.result.value for item in own]
        shares = [item.share for item in own]
        if weights == "none":
            baselines.append(ShareCurve(_title(suite, method), shares, values))
            continue
        ends = [(item.result.low, item.result.high) for item in own]
        drawn = all(low is not None and high is not None for low, high in ends)
        panels.setdefault(_title(suite, method), []).append(
            ShareCurve(
                label=f"{reading}, {weights}",
                shares=shares,
                values=values,
                low=[100 * (low or 0) for low, _ in ends] if drawn else None,
                high=[100 * (high or 0) for _, high in ends] if drawn else None,
                hue=READINGS.index(reading),
                dashed=weights == WEIGHTS[1],
            )
        )
    people = max(item.result.n or 0 for item in scored)
    drawn_figure = plot_share_curves(
        panels or {"without pretraining": []},
        baselines,
        chance=100 * (scored[0].result.chance or 0),
        ylabel=f"{suite.card['metric'].replace('_', ' ')} (%)",
        title=f"{suite.card['description']} ({people} people)",
        trials={item.share: item.trials for item in scored},
    )
    caption = (
        "Mean over people of models that never saw them; shaded: 95 % interval over people. Solid: "
        "pretrained, dashed: random weights; grey: methods without pretraining."
    )
    return Picture.from_figure(drawn_figure, caption)
