"""Are the held-out recordings familiar to a run, and are its activations sound?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neurofm.batch import Batch
from neurofm.cli.explain.explaining import function_of
from neurofm.cli.explain.inside import Inside, Seen, by_window, recorded
from neurofm.interpret.causal import noisy
from neurofm.interpret.monitoring import (
    Detections,
    Influence,
    choose_coverage,
    compare_familiarity,
    influences,
)
from neurofm.live.decoder import RunDecoder

_NEIGHBOUR = 5


@dataclass(frozen=True)
class Familiar:
    """Familiarity of windows, and the state of the sites.

    Args:
        site: Where distances are taken; coverage is of all sites.
        held_out: Training windows that nothing was fitted on, against held-out windows.
        random: The same in the network with random weights.
        noise: The same training windows against themselves with noise: can the scores tell at all?
        new_people: Whether no held-out person was trained on.
        n: Windows fitted on, familiar, and held out.
        seen: What was recorded of the held-out windows.
    """

    site: str
    held_out: Detections
    random: Detections
    noise: Detections
    new_people: bool
    n: tuple[int, int, int]
    seen: Seen


def familiar(inside: Inside) -> Familiar:
    """Score training windows that were set aside, and held-out ones, by what passes through sites.

    Windows of each training recording are divided by time: a half to fit on, a quarter to choose
    settings with (against the same with noise), a quarter to compare with.

    Raises:
        ValueError: Too few training windows, or no gradient from the output to a site.
    """
    held = inside.held
    fit, choose, compare = _divided(inside, 4 * len(held.chosen))
    if min(len(fit), len(choose), len(compare)) < 2 * _NEIGHBOUR:
        raise ValueError(
            f"familiar: {len(held.split.train)} training windows are too few: a half of each "
            f"recording is fitted on, a quarter compared, and {2 * _NEIGHBOUR} are the least."
        )
    if not held.windows.batch(held.chosen[:2]).has_signal:
        raise ValueError("familiar: the store holds tokens and no signal to disturb.")
    people = [{str(held.rows[i].subject) for i in side} for side in (held.split.train, held.chosen)]
    groups = [np.array([held.rows[i].recording for i in side]) for side in (compare, held.chosen)]
    labels = [held.labels[k] for k in held.classes(fit).tolist()]

    site = inside.deciding()

    def scores(net: RunDecoder) -> tuple[Detections, Detections]:
        base, inner, same, other = (
            _influences(net, inside, side) for side in (fit, choose, compare, held.chosen)
        )
        loud = [_influences(net, inside, side, noise=True) for side in (choose, compare)]
        detector = choose_coverage(base, inner, loud[0])
        common: dict[str, Any] = {
            "detector": detector,
            "labels": labels,
            "k": _NEIGHBOUR,
            "layer": site.name,
        }
        return (
            compare_familiarity(
                base, same, other, inside_groups=groups[0], outside_groups=groups[1], **common
            ),
            compare_familiarity(
                base, same, loud[1], inside_groups=groups[0], outside_groups=groups[0], **common
            ),
        )

    held_out, noise = scores(inside.decoder)
    return Familiar(
        site=site.label,
        held_out=held_out,
        random=scores(inside.random)[0],
        noise=noise,
        new_people=not people[0] & people[1],
        n=(len(fit), len(compare), len(held.chosen)),
        seen=recorded(inside.decoder, inside, held.chosen),
    )


def _divided(inside: Inside, most: int) -> tuple[list[int], list[int], list[int]]:
    held = inside.held
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    by_recording: dict[str, list[int]] = {}
    for i in held.balanced(held.split.train, most, inside.seed):
        by_recording.setdefault(str(held.rows[i].recording), []).append(i)
    for members in by_recording.values():
        members.sort()  # rows are in the order of time
        half, rest = len(members) // 2, len(members) * 3 // 4
        parts[0].extend(members[:half])
        parts[1].extend(members[half:rest])
        parts[2].extend(members[rest:])
    return parts


def _influences(
    net: RunDecoder, inside: Inside, members: list[int], *, noise: bool = False
) -> dict[str, Influence]:
    generator = torch.Generator().manual_seed(inside.seed)
    batches: list[Batch] = [batch for batch, _ in inside.held.batches(members)]
    if noise:
        batches = [noisy(batch, generator=generator) for batch in batches]
    found: dict[str, Influence] = {}
    for axis in sorted({place.axis for place in inside.places}):
        names = [place.name for place in inside.places if place.axis == axis]
        found |= influences(net, names, run=function_of(net), batches=batches, unit_axis=axis)
    n = len(members)
    return {name: _per_window(value, n) for name, value in found.items() if "@" not in name}


def _per_window(given: Influence, n: int) -> Influence:
    """Rows of models that fold another axis into windows, averaged back."""
    if len(given) == n:
        return given
    pair = (torch.from_numpy(x) for x in (given.activation, given.gradient))
    return Influence(*(by_window(x, -1, n).mean(1).numpy() for x in pair))
