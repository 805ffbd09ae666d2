"""Whose recordings a suite is run on: other people than the card's, and who is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from neurofm.data.splits import natural_order
from neurofm.evaluate.records import Record
from neurofm.evaluate.suites import Suite, digest
from neurofm.io import Corpus, open_corpus
from neurofm.io.quality import listed
from neurofm.io.rules import same_entity

_LONGEST = 40  # letters of a folder's name that say which people


def on_people(suite: Suite, asked: Sequence[str], *, chosen: Sequence[str]) -> Suite:
    """The suite on other people of its corpora.

    Args:
        asked: "13", "013", "S013" and "sub-13" are the same.
        chosen: Data sets that are run: of those that are here, everybody must be there.

    Raises:
        ValueError: A person named twice, or unknown; the message says who is there.
    """
    named: dict[str, str] = {}
    for name in asked:
        other = named.setdefault(_bare(name), name)
        if other is not name:
            raise ValueError(f"--subjects names a person twice: {other} and {name}.")
    people = {}
    for dataset, about in suite.datasets.items():
        try:
            corpora = corpora_of(about)
        except FileNotFoundError:
            corpora = []
        there = _people_in(corpora)
        spelled = {_bare(name): name for name in there}
        lost = [name for bare, name in named.items() if bare not in spelled]
        if corpora and lost and dataset in chosen:
            raise ValueError(
                f"--subjects: {corpora[0].name} has no {listed(lost)} in {corpora[0].root}; there "
                f"are {spans(there)}.{_fetching(corpora[0], lost, about)}"
                + (" --datasets leaves data sets out." if len(chosen) > 1 else "")
            )
        found = (spelled.get(bare, bare) for bare in named)
        people[dataset] = sorted(
            (str(int(n)) if n.isdecimal() else n for n in found), key=natural_order
        )
    return suite.on(people, title=f"people {spans(list(named))}")


def folder_of(suite: Suite, asked: Sequence[str] | None, *, own: Suite) -> str:
    """Name of the folder of results: people and windows that are not the card's have their own.

    Args:
        own: The suite on the people of its card.
    """
    parts = [suite.name]
    if asked and suite.datasets != own.datasets:
        who = re.sub(r"[^\w.-]+", "_", spans([_bare(name) for name in asked]))
        if len(who) > _LONGEST:
            who = f"{len(asked)}-{digest(sorted(map(_bare, asked)))[:8]}"
        parts.append(f"subjects-{who}")
    return "-".join([*parts, *(["validation"] if suite.validation else [])])


def refuse_other_results(out: Path, suite: Suite, records: Iterable[Record]) -> None:
    """Stop before results of other people or folds are mixed with those of a folder.

    Args:
        records: That the folder holds.

    Raises:
        ValueError: They are of other recordings or protocols of the same name.
    """
    file = out / "config.yaml"
    was = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    places = {(kind, record[kind]) for record in records for kind in ("dataset", "protocol")}
    for kind, name in sorted(places):
        now = (suite.datasets if kind == "dataset" else suite.protocols).get(name)
        then = was.get(f"{kind}s", {}).get(name)
        if then and now and _deciding(then) != _deciding(now):
            raise ValueError(
                f"{out} holds results with another {kind} {name}: {_differing(then, now)}. One "
                f"folder holds one table: choose another --out (--work {out} uses again what both "
                "have in common)."
            )


def _deciding(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What decides windows and folds."""
    rest = ("title", "protocols", "changes", "validation")
    return {key: value for key, value in spec.items() if key not in rest}


def _differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first difference; of people rather than of their groups."""
    flat = [{**side.get("data", {}), **_deciding(side)} for side in (was, now)]
    keys = [key for key in flat[0] | flat[1] if key != "data"]
    key = next(key for key in keys if flat[0].get(key) != flat[1].get(key))
    there, here = (_listed(side.get(key)) for side in flat)
    return f"{key} {there} there, {here} now"


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return spans(list(map(str, value)))
    return "not given" if value is None else str(value)


def refuse_missing(about: Mapping[str, Any]) -> None:
    """Stop if recordings that a data set of a suite names are not there.

    Raises:
        FileNotFoundError: None are.
        ValueError: The message says whose, and what can be done.
    """
    for corpus in corpora_of(about):
        found = corpus.recordings()
        there = _people_in([corpus])
        wanted = _names(about, "subjects", corpus) or there
        lost = [name for name in wanted if not any(same_entity(name, p) for p in there)]
        if lost:
            raise ValueError(
                f"{corpus.name}: the suite is about people {spans(wanted)}, of whom "
                f"{spans(lost)} are not in {corpus.root}; there are {spans(there)}."
                f"{_fetching(corpus, lost, about)} --subjects runs the suite on other people."
            )
        gaps: dict[str, list[str]] = {}  # run to the people who lack it
        for run in _names(about, "runs", corpus) or ():
            have = {item.subject for item in found if same_entity(item.run, run)}
            lacking = [n for n in wanted if not any(same_entity(n, p) for p in have)]
            if lacking:
                gaps[run] = lacking
        if gaps:
            named = "; ".join(f"run {run} of {spans(who)}" for run, who in gaps.items())
            people = sorted({name for who in gaps.values() for name in who}, key=natural_order)
            raise ValueError(
                f"{corpus.name}: the suite needs recordings that are not in {corpus.root}: "
                f"{named}.{_fetching(corpus, people, about, runs=list(gaps))} --subjects runs the "
                "suite on people of whom everything is there."
            )


def spans(names: Sequence[str]) -> str:
    """Names in order, numbers that follow each other together: "1-3, 7"."""
    parts: list[list[str]] = []
    for name in sorted(map(_bare, names), key=natural_order):
        last = parts[-1][-1] if parts else ""
        if name.isdecimal() and last.isdecimal() and int(name) == int(last) + 1:
            parts[-1].append(name)
        else:
            parts.append([name])
    return ", ".join(p[0] if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _bare(name: str) -> str:
    """A person's number without zeros and the letters before it, or the name as it is."""
    number = re.fullmatch(r"(?:sub-|s)?(\d+)", str(name), re.IGNORECASE)
    return str(int(number[1])) if number else str(name)


def corpora_of(about: Mapping[str, Any]) -> list[Corpus]:
    """The corpora of a data set, opened.

    Raises:
        FileNotFoundError: One of them is not here.
    """
    root = about["data"].get("root")
    place = None if root is None else Path(root)
    return [open_corpus(name, root=place) for name in about["data"]["datasets"]]


def _people_in(corpora: Sequence[Corpus]) -> list[str]:
    found = {item.subject for corpus in corpora for item in corpus.recordings()}
    return sorted(filter(None, found), key=natural_order)


def _names(about: Mapping[str, Any], option: str, corpus: Corpus) -> list[str] | None:
    given = about["data"].get(option)
    given = given.get(corpus.name) if isinstance(given, Mapping) else given
    return None if given is None else [str(name) for name in given]


def _fetching(
    corpus: Corpus,
    people: Sequence[str],
    about: Mapping[str, Any],
    *,
    runs: Sequence[str] | None = None,
) -> str:
    """The command that gets recordings of these people, if there is one."""
    if corpus.card.get("fetch") is None:
        return ""
    chosen = runs or _names(about, "runs", corpus)
    only = f" --runs {' '.join(chosen)}" if chosen else ""
    who = " ".join(_bare(name) for name in people)
    return f" `neurofm fetch {corpus.name} --subjects {who}{only}` fetches them."
