"""Table, numbers, figures and report of a suite, made of its records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neurofm.cli.benchmark import figures, tables
from neurofm.cli.benchmark.found import PERCENT, WORDS, Found, counted, first_upper, found_in
from neurofm.evaluate.comparisons import FEWEST_TESTED
from neurofm.evaluate.records import Record, write_bytes, write_text
from neurofm.evaluate.scoring import RATE
from neurofm.evaluate.suites import Suite
from neurofm.report import Picture, Report

TABLE, RESULTS, FIGURE = "table.md", "results.csv", "figure.png"


def write_results(suite: Suite, records: Sequence[Record], out: Path) -> list[Path]:
    """Write `table.md`, `results.csv`, `figure.png` and `report.html`; their paths."""
    found = found_in(suite, records)
    for name, text in documents(found).items():
        write_text(out / name, text)
    picture = figures.main_figure(found)
    write_bytes(out / FIGURE, picture.png)
    return [out / TABLE, out / RESULTS, out / FIGURE, report(found, picture).save(out)]


def documents(found: Found) -> dict[str, str]:
    """The committed texts by file name."""
    return {TABLE: markdown(found), RESULTS: tables.comma_separated(found)}


def about(found: Found) -> str:
    """One sentence: which recordings, how many people, methods and seeds."""
    parts = []
    for dataset in dict.fromkeys(item.dataset for item in found.scored):
        own = [item for item in found.scored if item.dataset == dataset]
        people = max(item.result.n or 0 for item in own)
        parts.append(f"{found.place((dataset, ''))} ({counted(people)})")
    methods = len({item.line[0] for item in found.scored})
    seeds = max(item.seeds for item in found.scored)
    return (
        f"Recordings: {'; '.join(parts)}. {_count(methods, 'method')}, {_count(seeds, 'seed')}, "
        f"{_count(len(found.places), 'data set and protocol', 'data sets and protocols')}."
    )


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def explained(found: Found) -> str:
    """What the numbers in the tables are."""
    guess = found.scored[0].result.chance
    chance = "" if guess is None else f"; a guess scores {found.factor * guess:.3g}"
    text = (
        f"Numbers are means over people [95 % bootstrap interval over people] of held-out windows; "
        f"a person's score is the mean over seeds. {first_upper(WORDS[found.metric])} is what "
        f"methods are compared by{chance}."
    )
    if any("permutation" in item.result.detail for item in found.scored):
        text += (
            " Chance is what the same predictions score when labels are shuffled inside "
            "recordings; in brackets what that exceeds in 5 % of the shuffles, and p is the share "
            "of shuffles that do as well. Areas under curves are made fold by fold, all else of "
            "all held-out windows of a person."
        )
    lengths = {
        item.results[RATE].detail["trial_s"] for item in found.scored if RATE in item.results
    }
    if lengths:
        seconds = " or ".join(f"{length:g}" for length in sorted(lengths))
        text += (
            f" Bits per minute: Wolpaw's formula on the balanced accuracy of a person, trials of "
            f"{seconds} s from cue to decision, breaks not counted; a noisy score near chance "
            "gives more than 0, see its chance."
        )
    if any(item.members > 1 for item in found.scored):
        text += (
            " Seeds together: the mean probability of all seeds decides; it costs all of them, and "
            "is no method of its own in ranks."
        )
    return text


def highlights(found: Found) -> list[str]:
    """What to take home, a sentence per data set and protocol."""
    lines = []
    for place in found.places:
        items = [i for i in found.at(place) if not np.isnan(i.result.value)]
        if not items:
            continue
        best = max(items, key=lambda item: found.better * item.result.value)
        text = (
            f"{found.place(place)}: {found.label(best.line)} "
            f"{tables.cell(found.metric, best.result)}"
            + (" % " if found.metric in PERCENT else " ")
            + f"{WORDS[found.metric]}, {counted(best.result.n or 0)}"
        )
        for item in found.versus:
            same = (item.dataset, item.protocol, item.line) == (*place, best.line)
            if same and item.share == best.share:
                r = item.result
                p = r.detail["p_fdr"]
                tested = "" if np.isnan(p) else f"corrected p {tables.p_text(p)}, "
                text += (
                    f"; {found.factor * r.value:+.1f} over {found.reference} ({tested}"
                    f"better for {r.detail['wins']} of {r.n})"
                )
        lines.append(text + ".")
    return lines + tables.reservations(found)


def markdown(found: Found) -> str:
    """The table as a page."""
    card = found.suite.card
    parts = [f"# {card['description']}", f"{about(found)} {explained(found)}"]
    names = [name for name in card["metrics"] if any(name in i.results for i in found.scored)]
    for place in found.places:
        parts += [] if len(found.places) == 1 else [f"## {found.place(place)}"]
        if len(found.shares(place)) > 1:
            parts += [
                f"{first_upper(WORDS[found.metric])}{', %' if found.factor == 100 else ''}, by "
                "share of the labels. CPU minutes are processor time of all folds, seeds and "
                "shares together.",
                tables.grid(tables.share_rows(found, place)),
            ]
        if len(names) > 1 or len(found.shares(place)) == 1:
            parts.append(tables.grid(tables.score_rows(found, place, names)))
        if found.at(place)[0].decided:
            parts += ["One decision per person:", tables.grid(tables.decided_rows(found, place))]
        if len(found.shares(place)) == 1:
            parts.append(tables.grid(tables.cost_rows(found, place)))
    unit = "Percentage points" if found.factor == 100 else "Differences"
    how = (
        f"{unit}, paired over people [95 % interval], p of a sign-flip test (in brackets corrected "
        "for false discoveries among all tests under this heading), from "
        f"{FEWEST_TESTED} people on."
    )
    headings = (
        ("Pretrained minus random weights", found.gains),
        (f"Minus {found.reference}", found.versus),
    )
    for title, compared in headings:
        if not compared:
            continue
        parts += [f"## {title}", how]
        for place in found.places:
            rows = tables.compared_rows(found, compared, place)
            if rows:
                parts += [] if len(found.places) == 1 else [f"### {found.place(place)}"]
                parts.append(tables.grid(rows))
    parts += tables.reservations(found)
    if len(found.places) > 1 or len(found.shares(found.places[0])) == 1:
        parts += _ranks(found)
    if card.get("notes"):
        parts += ["## Notes", str(card["notes"]).strip()]
    if card.get("tried"):
        tried = tables.grid(card["tried"])
        parts += ["## What was tried", str(card.get("tried_about", "")).strip(), tried]
    return "\n\n".join(part for part in parts if part) + "\n"


def _ranks(found: Found) -> list[str]:
    if not found.ranks:
        return []
    lines = []
    for item in found.ranks:
        order = sorted(zip(item.ranks, item.lines, strict=True))
        named = ", ".join(f"{found.label(line)} {rank:.2f}" for rank, line in order)
        where = found.place((item.dataset, item.protocol)) if item.dataset else item.protocol
        lines.append(
            f"* {where} ({item.n} {item.over}; Friedman p {tables.p_text(item.p)}, critical "
            f"difference {item.critical_difference:.2f}): {named}."
            + (f" Left out: {'; '.join(item.left_out)}." if item.left_out else "")
        )
    return ["## Average ranks", "\n".join(lines)]


def report(found: Found, picture: Picture) -> Report:
    """The page with every figure."""
    made = Report(f"neurofm benchmark {found.suite.name}", lead=about(found))
    made.add_lines(highlights(found))
    made.add_section(
        "Overview",
        text=f"{found.suite.card['description']}\n\n{explained(found)}",
        figures=[picture],
    )
    for place in found.places:
        _add_place(found, made, place, picture)
    if found.gains:
        rows = [r for p in found.places for r in tables.compared_rows(found, found.gains, p)]
        made.add_section("Pretrained minus random weights", table=rows)
    for place in found.places:
        drawn = figures.against(found, place)
        if drawn:
            made.add_section(
                f"Against {found.reference}: {found.place(place)}",
                figures=drawn,
                table=tables.unbroken(tables.compared_rows(found, found.versus, place)),
            )
    for ranked in found.ranks:
        where = found.place((ranked.dataset, ranked.protocol)) if ranked.dataset else ""
        made.add_section(
            f"Ranks: {where or str(ranked.protocol).replace('_', ' ') + ', over data sets'}",
            text="Below: p of Wilcoxon's signed-rank test of every two methods, corrected by "
            "Holm's steps.",
            figures=[figures.ranking(found, ranked)],
            table=tables.pair_rows(found, ranked),
        )
    curves = figures.learning_curves(found)
    if curves:
        made.add_section("Learning curves", figures=curves)
    made.add_section("Compute", figures=[figures.cost(found, place) for place in found.places])
    if found.suite.card.get("notes"):
        made.add_section("Notes", text=str(found.suite.card["notes"]))
    return made


def _add_place(found: Found, made: Report, place: tuple[str, str], picture: Picture) -> None:
    """Scores, probabilities and costs of one data set and protocol."""
    drawn = [figures.scores(found, place)]
    if len(found.shares(place)) > 1 and len(found.places) > 1:
        drawn.append(figures.shares(found, place))
    drawn = [one for one in drawn if one.png != picture.png]
    named = found.place(place)
    if len(found.shares(place)) > 1:
        rows = tables.unbroken(tables.share_rows(found, place))
        made.add_section(f"By share of the labels: {named}", table=rows)
    confused = figures.confusions(found, place)
    made.add_section(
        f"Scores: {named}",
        figures=drawn + ([confused] if confused else []),
        table=tables.unbroken(tables.score_rows(found, place, tables.HITS)),
    )
    honest = figures.reliability(found, place)
    made.add_section(
        f"Probabilities: {named}",
        text="How well the probabilities order windows (areas under curves; larger is better) and "
        "how honest they are (calibration error, Brier score, log loss in nats; smaller is "
        "better).",
        figures=[honest] if honest else [],
        table=tables.unbroken(tables.score_rows(found, place, tables.ODDS)),
    )
    if found.at(place)[0].decided:
        made.add_section(
            f"One decision per person: {named}",
            text="Labels belong to people: their windows vote, or their probabilities are "
            "averaged. People for whom classes tie count in parts.",
            table=tables.decided_rows(found, place),
        )
    made.add_section(f"Training: {named}", table=tables.cost_rows(found, place))
