"""What all interventions share: quiet runs, values of one run put into another, many at a time.

`run` turns a batch (or tensor) into a tensor with one row per window, such as
`lambda batch: readout(model.encode(batch))`; the model itself if not given. A metric turns those
rows into one number per window. Runs are in evaluation mode, and modes are as before afterwards.
Axes: the first axis is window. Several interventions are run at once as copies of the windows, one
whole set after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.batch import Batch
from neurofm.interpret.arrays import require_finite
from neurofm.interpret.attribution.evidence import repeated
from neurofm.interpret.patching import Context, Patch, patched
from neurofm.interpret.places import names_of
from neurofm.shapes import Float, Int

Run = Callable[[Any], Any]
Metric = Callable[[Any], Tensor]
Values = Mapping[str, Sequence[Tensor]]
ROWS = 256  # windows x interventions at once


@contextmanager
def still(model: nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """Evaluation mode; what it changes is as before afterwards.

    With gradients, weights have none meanwhile: they are wanted of activations alone.
    """
    modes = [(module, module.training) for module in model.modules()]
    learning = [w for w in model.parameters() if w.requires_grad] if gradients else []
    try:
        model.eval()
        for weight in learning:
            weight.requires_grad_(False)
        with torch.set_grad_enabled(gradients):
            yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
        for module, training in modes:
            module.training = training


def values_at(
    model: nn.Module, batch: Any, sites: Sequence[str], *, run: Run | None = None
) -> tuple[Any, dict[str, list[Tensor]]]:
    """What `run` returns, and the value of every call at each site, on its device."""
    kept: dict[str, list[Tensor]] = {site: [] for site in sites}

    def keep(value: Tensor, context: Context) -> Tensor:
        kept[context.site].append(value.detach().clone())
        return value

    with still(model), patched(model, dict.fromkeys(kept, keep)):
        return (run or model)(batch), kept


def gradients_at(
    model: nn.Module,
    batch: Any,
    sites: Sequence[str],
    metric: Metric,
    *,
    run: Run | None = None,
    around: AbstractContextManager[Any] | None = None,
) -> tuple[Tensor, dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """Gradient of a metric, summed over windows, with respect to the value of every call at sites.

    All by one backward pass, also where weights are frozen; zeros where the metric does not depend
    on a site.

    Args:
        metric: Of the output of `run`.
        around: In which the forward pass happens, such as `relevance_rules(model)`.

    Returns:
        The output, the values and the gradients.
    """
    kept: dict[str, list[Tensor]] = {site: [] for site in sites}

    def reach(value: Tensor, context: Context) -> Tensor:
        value = value.clone() if value.requires_grad else value.detach().clone().requires_grad_()
        kept[context.site].append(value)
        return value.clone()  # the next module may be an in-place activation

    with still(model, gradients=True), patched(model, dict.fromkeys(kept, reach)):
        with around or nullcontext():
            out = rows_of((run or model)(batch), len(batch))
        score = score_of(metric, out)
        leaves = [value for site in kept for value in kept[site]]
        found: Iterator[Tensor | None] = iter([None] * len(leaves))
        if score.requires_grad:  # else it depends on none of them
            found = iter(torch.autograd.grad(score.sum(), leaves, allow_unused=True))
    slopes: dict[str, list[Tensor]] = {}
    for site, values in kept.items():
        pairs = [(value, next(found)) for value in values]
        slopes[site] = [torch.zeros_like(v) if slope is None else slope for v, slope in pairs]
    return out.detach(), {k: [v.detach() for v in vs] for k, vs in kept.items()}, slopes


def inserted(values: Values) -> dict[str, Patch]:
    """Patches that put values of another run in place, call by call."""

    def put(value: Tensor, context: Context) -> Tensor:
        return _source(values, context, value)

    return dict.fromkeys(values, put)


def _source(values: Values, context: Context, value: Tensor) -> Tensor:
    calls = values[context.site]
    # A site `name@k` keeps one value, whichever call that is.
    k = 0 if "@" in context.site else context.call
    if k >= len(calls) or calls[k].shape[1:] != value.shape[1:]:
        shape = tuple(calls[k].shape) if k < len(calls) else "no such call"
        raise ValueError(
            f"causal: {context.site!r} has shape {tuple(value.shape)} in one run and {shape} in "
            "the other; give windows of the same channels and length."
        )
    return calls[k]


Change = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Edit:
    """One intervention: a site, and what is made of the value there.

    Args:
        site: See `record`.
        change: Function of the value and the other run's value; that value if not given.
        name: For tables and figures; the site if not given.
    """

    site: str
    change: Change | None = None
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.site


def edits_of(sites: Sequence[str | Edit], who: str) -> list[Edit]:
    """Sites as edits, at least one."""
    edits = [site if isinstance(site, Edit) else Edit(site) for site in sites]
    names_of([edit.site for edit in edits] if not isinstance(sites, str) else sites, who=who)
    return edits


def each_run(
    model: nn.Module,
    batch: Any,
    edits: Sequence[Edit],
    values: Values,
    *,
    run: Run | None = None,
    rows: int = ROWS,
) -> Iterator[Tensor]:
    """Output of the windows under each edit by itself, in order.

    Args:
        values: Of the other run, at the sites of all edits.
        rows: Windows times edits in one pass.
    """
    n = len(batch)
    at_once = max(1, rows // max(n, 1))
    for start in range(0, len(edits), at_once):
        some = edits[start : start + at_once]
        by_site: dict[str, list[int]] = {}
        for j, edit in enumerate(some):
            by_site.setdefault(edit.site, []).append(j)
        patches = {
            site: _in_blocks([(j, some[j].change) for j in which], len(some), values)
            for site, which in by_site.items()
        }
        with still(model), patched(model, patches):
            out = (run or model)(copies(batch, len(some)))
        yield from rows_of(out, n * len(some)).chunk(len(some))


def _in_blocks(which: Sequence[tuple[int, Change | None]], n_blocks: int, values: Values) -> Patch:
    def change(value: Tensor, context: Context) -> Tensor:
        size = len(value) // n_blocks
        changed = value.clone()
        for block, make in which:
            here = slice(block * size, (block + 1) * size)
            source = _source(values, context, value)
            if len(source) != size:
                raise ValueError(
                    f"causal: {context.site!r} has {len(source)} rows in one run and {size} in "
                    "the other; give as many windows in both."
                )
            changed[here] = source if make is None else make(value[here], source)
        return changed

    return change


def copies(batch: Any, times: int) -> Any:
    """The windows several times, one whole set after the other."""
    if times == 1:
        return batch
    if isinstance(batch, Batch):
        return repeated(batch, times)
    return batch.repeat(times, *[1] * (batch.ndim - 1))


def rows_of(out: Any, n: int) -> Tensor:
    """The output, checked to have one row per window, and that there is a window."""
    if n == 0:
        raise ValueError("causal: no windows; an effect needs one or more.")
    if not isinstance(out, Tensor) or out.ndim == 0 or len(out) != n:
        what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"causal: the run returned {what} for {n} windows; give `run` a function that returns "
            "a tensor with one row per window, such as logits."
        )
    return out


def score_of(metric: Metric, out: Tensor) -> Float[Tensor, " window"]:
    """The metric of an output, checked."""
    score = metric(out)
    if not isinstance(score, Tensor) or score.shape != (len(out),):
        what = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise ValueError(
            f"causal: the metric returned {what} for {len(out)} windows; one number per window "
            "is needed."
        )
    require_finite("causal: the metric", score.detach())
    return score


def scored(out: Any, n: int, metric: Metric | None) -> tuple[Tensor, Metric]:
    """Metric of an output, and the metric: the margin of the chosen class if none is given."""
    out = rows_of(out, n)
    metric = metric or logit_difference(classes_of(out))
    return score_of(metric, out), metric


def same_windows(clean: Any, corrupt: Any) -> None:
    """Raise if two runs cannot be paired."""
    if len(clean) != len(corrupt):
        raise ValueError(
            f"causal: {len(clean)} clean and {len(corrupt)} corrupt windows; they are pairs."
        )
    one, two = _form(clean), _form(corrupt)
    if one != two:
        raise ValueError(
            f"causal: clean windows have {one}, corrupt ones {two}; pairs have the same "
            "channels and length, at the same rate."
        )


def _form(batch: Any) -> str:
    x = batch.x if isinstance(batch, Batch) else batch
    shape = f"shape {tuple(x.shape[1:])}" if isinstance(x, Tensor) else ""
    if not isinstance(batch, Batch):
        return shape
    names = f", channels {' '.join(batch.names)}" if batch.names else ""
    return f"{shape} at {batch.sfreq:g} Hz{names}"


def apart(found: Sequence[Any], held: Sequence[Any], who: str) -> None:
    """Raise if a held-out window is among those something was found on."""
    rows: set[bytes] = set()
    for batch in found:
        rows |= set(_windows(batch))
    seen = sum(window in rows for batch in held for window in _windows(batch))
    if seen:
        raise ValueError(
            f"{who}: {seen} held-out windows are among those the direction was found on; an "
            "effect on them proves nothing. Give windows of other trials, better other runs."
        )


def _windows(batch: Any) -> list[bytes]:
    x = batch.x if isinstance(batch, Batch) else batch
    return [row.tobytes() for row in x.detach().cpu().double().numpy()]


def logit_difference(
    first: Tensor | int, second: Tensor | int | None = None
) -> Callable[[Tensor], Tensor]:
    """Metric: logit of one class minus that of another, or of the best other.

    Args:
        first: A class, or one per window.
        second: Likewise.
    """

    def metric(logits: Tensor) -> Tensor:
        one = _column(logits, first)
        if second is not None:
            return (logits.gather(1, one) - logits.gather(1, _column(logits, second)))[:, 0]
        others = logits.scatter(1, one, float("-inf"))
        return logits.gather(1, one)[:, 0] - others.amax(1)

    return metric


def probability(target: Tensor | int) -> Callable[[Tensor], Tensor]:
    """Metric: probability of a class, or of one class per window. It saturates: see logits too."""

    def metric(logits: Tensor) -> Tensor:
        return logits.softmax(1).gather(1, _column(logits, target))[:, 0]

    return metric


def _column(logits: Tensor, target: Tensor | int) -> Int[Tensor, "window 1"]:
    """The class of each window as an index, checked."""
    classes_of(logits)
    n, k = logits.shape
    index = torch.as_tensor(target, device=logits.device)
    whole = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
    if not whole or index.shape not in ((), (n,)) or not bool(((index >= 0) & (index < k)).all()):
        raise ValueError(
            f"causal: class {target} of {n} windows with {k} logits; expected an integer from 0 to "
            f"{k - 1}, or one per window."
        )
    return index.long().expand(n)[:, None]


def classes_of(out: Tensor) -> Tensor:
    """Class with the largest logit in each window, of an output checked to be logits."""
    if out.ndim != 2 or out.shape[1] < 2:
        raise ValueError(
            f"causal: an output of shape {tuple(out.shape)} is no logits of classes; give a metric."
        )
    return out.argmax(1)


def contrast(clean: Tensor, corrupt: Tensor) -> tuple[Tensor, Tensor]:
    """Per window the class the clean run chooses, and the one the corrupt run prefers to it."""
    wanted = classes_of(clean)
    return wanted, corrupt.scatter(1, wanted[:, None], float("-inf")).argmax(1)


def array_of(x: Tensor) -> np.ndarray:
    """As float64 on the CPU."""
    return x.detach().cpu().double().numpy()
