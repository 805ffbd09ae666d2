"""Event rules of dataset cards: the labels of a file under the names the card gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from neurofm.io.quality import matches
from neurofm.io.readers import ENTITIES
from neurofm.types import Event, Recording, Signal

_WHOLE = "whole"  # rule key: one event over the whole recording


def same_entity(one: str | int | None, other: str | int | None) -> bool:
    """Whether two subjects, sessions or runs are the same: as numbers if both are, else as text."""
    if one is None or other is None:
        return one is other
    left, right = str(one), str(other)
    if left.isdecimal() and right.isdecimal():
        return int(left) == int(right)
    return left == right


def check_rules(rules: Any, *, where: str) -> None:
    """Raise ValueError if a card's event rules are not a list of mappings of labels."""
    if not isinstance(rules, list):
        raise ValueError(
            f"{where}: `events` is a {type(rules).__name__}, expected a list of rules."
        )
    for rule in rules:
        if not isinstance(rule, dict):
            raise ValueError(
                f"{where}: event rule {rule!r} is not a mapping, expected {{T1: name}}."
            )
        for key, value in rule.items():
            if key in ENTITIES:
                entries = value if isinstance(value, list) else [value]
                if not all(isinstance(item, (str, int)) for item in entries):
                    raise ValueError(
                        f"{where}: {key} of event rule {rule!r} must be names or numbers."
                    )
            elif not isinstance(key, (str, int)) or not (value is None or isinstance(value, str)):
                raise ValueError(
                    f"{where}: event rule {rule!r}: {key!r}: {value!r} is not `label in the "
                    "file: our "
                    "label` (or null to drop it). Quote labels that YAML takes for numbers or "
                    "booleans."
                )


def label_events(
    signal: Signal, rules: Sequence[Mapping[Any, Any]], *, where: str = ""
) -> tuple[Event, ...]:
    """The events of a recording under the names a card gives them.

    A rule is a mapping: `subject`, `session`, `task` and `run` say where it applies (everywhere if
    absent); every other key is a label in the file, or a wildcard, and its value our label, or null
    to drop the event. The first rule that knows a label decides; other labels stay as they are. The
    key `whole` adds one event over the whole recording.

    Returns:
        Ordered by onset.
    """
    check_rules(list(rules), where=where)
    applying = [rule for rule in rules if _applies(rule, signal.recording)]
    events = []
    for event in signal.events:
        label = _label(event.label, applying)
        if label is not None:
            events.append(replace(event, label=label))
    events += [
        Event(0.0, signal.duration, rule[_WHOLE])
        for rule in applying
        if rule.get(_WHOLE) is not None
    ]
    return tuple(sorted(events, key=lambda event: (event.onset, event.label)))


def _applies(rule: Mapping[Any, Any], recording: Recording) -> bool:
    for name in ENTITIES:
        if name in rule:
            wanted = rule[name] if isinstance(rule[name], list) else [rule[name]]
            if not any(same_entity(item, getattr(recording, name)) for item in wanted):
                return False
    return True


def _label(label: str, rules: Sequence[Mapping[Any, Any]]) -> str | None:
    for rule in rules:
        for key, value in rule.items():
            if key not in ENTITIES and key != _WHOLE and matches(label, [str(key)]):
                return value if value is None else str(value)
    return label
