"""Tables of a suite: rows of words for pages, and every number as comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from neurofm.cli.benchmark.found import PERCENT, WORDS, Found
from neurofm.evaluate.comparisons import (
    Compared,
    Ranking,
    other_draws,
    other_windows,
    reference_of,
)
from neurofm.evaluate.scoring import METRICS, RATE
from neurofm.evaluate.suite_results import Scored, pretraining_cost
from neurofm.types import Result

Row = dict[str, Any]
HITS = ("balanced_accuracy", "accuracy", "kappa", "macro_f1", RATE)
ODDS = ("auroc", "auprc", "calibration_error", "brier", "log_loss")


def cell(name: str, result: Result | None) -> str:
    """A score with its interval: percent with one decimal, or in the metric's own unit."""
    if result is None or np.isnan(result.value):
        return "–"
    percent = name in PERCENT
    value = f"{100 * result.value:.1f}" if percent else f"{result.value:.{_digits(name)}f}"
    if result.low is None or result.high is None:
        return value
    if percent:
        return f"{value} [{100 * result.low:.0f}, {100 * result.high:.0f}]"
    return f"{value} [{result.low:.{_digits(name)}f}, {result.high:.{_digits(name)}f}]"


def _digits(name: str) -> int:
    return 1 if name == RATE else 2


def p_text(value: float) -> str:
    """A p value with three decimals."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def score_rows(found: Found, place: tuple[str, str], names: Sequence[str]) -> list[Row]:
    """One row per line at the largest share, a column per metric."""
    items = found.at(place)
    known = [name for name in names if any(name in item.results for item in items)]
    rows = []
    for item in items:
        row: Row = {"method": found.label(item.line)}
        for name in known:
            row[_column(name)] = cell(name, item.results.get(name))
            row |= _luck(item) if name == found.metric else {}
        rows.append(row)
    return rows


def _column(name: str) -> str:
    return WORDS[name] + (", %" if name in PERCENT else "")


def _luck(item: Scored) -> Row:
    """Chance by permutation of the first metric, if there are predictions."""
    found = item.result.detail.get("permutation")
    if found is None:
        return {}
    name = item.result.unit
    factor = 100 if name in PERCENT else 1
    return {
        "chance (5 % by luck)": f"{factor * found['chance']:.1f} ({factor * found['luck']:.1f})",
        "p": p_text(found["p"]),
    }


def cost_rows(found: Found, place: tuple[str, str]) -> list[Row]:
    """People, seeds, alignment, size and processor time of each line."""
    return [
        {
            "method": found.label(item.line),
            "people": item.result.n,
            "seeds": item.seeds,
            "training trials": f"{item.trials:.0f}",
            "unlabelled test data": item.align or "–",
            "parameters": "–" if not item.parameters else f"{item.parameters:,}".replace(",", " "),
            "CPU s per decoder": f"{item.decoder_s:.1f}",
            "of it pretraining": f"{item.members * item.pretraining_s:.1f}",
        }
        for item in found.at(place)
    ]


def share_rows(found: Found, place: tuple[str, str]) -> list[Row]:
    """The first metric at every share of the labels, with what was used and what it cost."""
    own = [item for item in found.scored if item.place == place]
    trials = {item.share: item.trials for item in own}
    columns = {s: f"{100 * s:g} % ({trials[s]:.0f} trials)" for s in sorted(trials)}
    cost = pretraining_cost([r for r in found.records if (r["dataset"], r["protocol"]) == place])
    lines: dict[Any, Row] = {}
    spent: dict[Any, float] = {}
    for item in own:
        method, weights, reading = item.line
        pretrained = weights == "pretrained"
        labels = found.suite.methods[method].get("labels_in_pretraining", False)
        row = lines.setdefault(
            item.line,
            {
                "method": found.title(method),
                "weights": weights.replace("none", "–"),
                "read by": reading.removeprefix("trained").removeprefix(", ") or "–",
                "labels in pretraining": ("yes" if labels else "no") if pretrained else "–",
                **dict.fromkeys(columns.values(), ""),
                "pretraining, CPU min": f"{cost.get(method, 0) / 60:.1f}" if pretrained else "–",
            },
        )
        row[columns[item.share]] = cell(found.metric, item.result)
        spent[item.line] = spent.get(item.line, 0.0) + item.cpu_s / 60
    return [row | {"decoding, CPU min": f"{spent[line]:.1f}"} for line, row in lines.items()]


def compared_rows(found: Found, compared: Sequence[Compared], place: tuple[str, str]) -> list[Row]:
    """Differences at every share: mean, interval, p and p corrected for false discoveries."""
    own = [item for item in compared if (item.dataset, item.protocol) == place]
    shares = {s: f"{100 * s:g} %" for s in sorted({item.share for item in own})}
    if list(shares) == [1.0]:
        shares = {1.0: "difference [95 %], p (corrected)"}
    digits = 1 if found.factor == 100 else 2
    lines: dict[Any, Row] = {}
    for item in own:
        row = lines.setdefault(
            item.line, {"method": found.label(item.line), **dict.fromkeys(shares.values(), "")}
        )
        r = item.result
        interval = ""
        if r.low is not None and r.high is not None:
            ends = (f"{found.factor * end:+.{digits - 1}f}" for end in (r.low, r.high))
            interval = f" [{', '.join(ends)}]"
        p = f", p {p_text(r.detail['p'])} ({p_text(r.detail['p_fdr'])})"
        untested = np.isnan(r.detail["p"])
        value = f"{found.factor * r.value:+.{digits}f}{interval}"
        row[shares[item.share]] = value + ("" if untested else p)
        if len(shares) == 1:
            row |= {"better": f"{r.detail['wins']} of {r.n}", "left out": r.detail["left_out"]}
    return list(lines.values())


def reservations(found: Found) -> list[str]:
    """What cannot be set against the reference, or not quite, and why: a sentence each."""
    said: list[str] = []
    for place in found.places:
        drawn = []
        for item in (item for item in found.scored if item.place == place):
            base = reference_of(found.scored, found.suite.card["reference"], item)
            name = found.label(item.line)
            if base is None:
                said.append(
                    f"{found.place(place)}: {found.reference} has no result to compare with."
                )
                break
            if other_windows(item, base):
                said.append(f"{found.place(place)}: {name} has other windows and is not compared.")
            elif other_draws(item, base):
                drawn.append(found.title(item.line[0]))
        if drawn:
            said.append(
                f"{found.place(place)}: below all labels, {', '.join(dict.fromkeys(drawn))} and "
                f"{found.reference} were trained on different draws of as many trials."
            )
    return said


def decided_rows(found: Found, place: tuple[str, str]) -> list[Row]:
    """One decision per person, where labels belong to people."""
    rows = []
    for item in found.at(place):
        for made in item.decided:
            row: Row = {"method": found.label(item.line), "decision": made.rule}
            row |= {_column(n): cell(n, r) for n, r in made.results.items()}
            hit = made.results["balanced_accuracy"]
            row |= {"p": p_text(hit.detail["permutation"]["p"]), "people": hit.n}
            rows.append(row | {"ties": f"{made.ties:.1f}"})
    return rows


def pair_rows(found: Found, ranking: Ranking) -> list[Row]:
    """Corrected p of every two lines, best ranks first."""
    order = sorted(range(len(ranking.lines)), key=lambda i: ranking.ranks[i])
    rows = []
    for number, i in enumerate(order):
        row: Row = {"": f"{number + 1}. {found.label(ranking.lines[i])}"}
        row["rank"] = f"{ranking.ranks[i]:.2f}"
        for other, j in enumerate(order):
            at = (min(i, j), max(i, j))
            row[f"{other + 1}"] = "" if other <= number else p_text(ranking.pairs[at])
        rows.append(row)
    return rows


def grid(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    if not rows:
        return "(nothing yet)"
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([str(row.get(n, "")) for n in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def unbroken(rows: Sequence[Row]) -> list[Row]:
    """Rows for a page whose numbers stay on one line with their intervals."""
    return [
        {
            key: value.replace(" ", "\u00a0")
            if key != "method" and isinstance(value, str)
            else value
            for key, value in row.items()
        }
        for row in rows
    ]


def comma_separated(found: Found) -> str:
    """One line per method, weights, reading, data set, protocol and share, with every metric."""
    comparisons = {
        "gain": {(i.line, i.dataset, i.protocol, i.share): i.result for i in found.gains},
        "over_reference": {
            (i.line, i.dataset, i.protocol, i.share): i.result for i in found.versus
        },
    }
    names = [n for n in dict.fromkeys([found.metric, *METRICS, RATE]) if _any(found, n)]
    rows = []
    for item in found.scored:
        method, weights, reading = item.line
        row: Row = {"method": method, "weights": weights, "reading": reading}
        row |= {"dataset": item.dataset, "protocol": item.protocol, "share": item.share}
        row |= {"trials": f"{item.trials:g}", "people": item.result.n, "seeds": item.seeds}
        row |= {"seeds_together": item.members, "align": item.align}
        for name in names:
            row |= _numbers(name, item.results.get(name))
        for decision in ("majority vote", "mean probability"):
            own = next((made for made in item.decided if made.rule == decision), None)
            if any(i.decided for i in found.scored):
                key = "person_" + decision.replace(" ", "_")
                result = None if own is None else own.results["balanced_accuracy"]
                row[f"{key}_balanced_accuracy"] = _number(None if result is None else result.value)
                row[f"{key}_ties"] = _number(None if own is None else own.ties)
        row["labels_in_pretraining"] = weights == "pretrained" and bool(
            found.suite.methods[method].get("labels_in_pretraining", False)
        )
        row["parameters"] = item.parameters or ""
        row["decoding_cpu_s"] = f"{item.cpu_s:.1f}"
        row["decoder_cpu_s"] = f"{item.decoder_s:.1f}"
        row["decoder_pretraining_cpu_s"] = f"{item.members * item.pretraining_s:.1f}"
        for kind, results in comparisons.items():
            r = results.get((item.line, item.dataset, item.protocol, item.share))
            for key in ("value", "low", "high"):
                row[f"{kind}_{key}"] = _number(None if r is None else getattr(r, key))
            for key in ("p", "p_fdr"):
                row[f"{kind}_{key}"] = _number(None if r is None else r.detail[key])
            row[f"{kind}_people"] = "" if r is None else r.n
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _any(found: Found, name: str) -> bool:
    return any(name in item.results for item in found.scored)


def _numbers(name: str, result: Result | None) -> Row:
    row: Row = {name: _number(None if result is None else result.value)}
    for key in ("low", "high", "chance"):
        row[f"{name}_{key}"] = _number(None if result is None else getattr(result, key))
    drawn = {} if result is None else result.detail.get("permutation", {})
    for key, column in (("chance", "permuted"), ("luck", "luck"), ("p", "p")):
        row[f"{name}_{column}"] = _number(drawn.get(key))
    return row


def _number(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.4f}"
