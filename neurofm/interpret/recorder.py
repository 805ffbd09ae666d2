"""One access point to what happens inside a network: record named places while it runs.

A *site* is `path`, `path:output` or `path:input` (path as in `nn.Module.named_modules`), with an
optional part, selection and call: `attention:output.0`, `blocks.1[token=3]`, see `places`.
Brain data enter as the same `Activations` type, so that "layer against electrodes" is one call.
Axes: the first axis is always window; what follows is the module's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret.activations import (
    REDUCTIONS,
    Activations,
    Reduce,
    apply_reduction,
)
from neurofm.interpret.places import Hooked, Site, names_of, read
from neurofm.shapes import Bool


def sites(model: nn.Module) -> list[str]:
    """Names of all modules of a model: what `record` accepts."""
    return [name for name, _ in model.named_modules(remove_duplicate=False) if name]


class Recorder(Hooked):
    """Collects values at sites while it is open; use it through `record`."""

    def __init__(self, model: nn.Module, names: Sequence[str], reduce: Reduce = "none") -> None:
        if isinstance(reduce, str) and reduce not in REDUCTIONS:
            raise ValueError(f"record: reduce={reduce!r} is not one of {REDUCTIONS} or a function.")
        super().__init__(model, names_of(names, least=0), who="record")
        self._reduce = reduce
        self._calls: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = {}
        self._batches: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = {}

    def _finish(self) -> None:
        if self._calls:
            self.next_batch()

    def _pass(self, site: Site, call: int, value: Any) -> Any:
        seen, mask = read(site, value)
        known = None if mask is None else _array(mask)
        self._calls.setdefault(site.name, []).append((_array(seen), known))
        return value

    def next_batch(
        self, n_windows: int | None = None, mask: Bool[np.ndarray, "window token"] | None = None
    ) -> None:
        """Say that the next call belongs to new windows.

        Without it, several calls of one module are several passes over the same windows.

        Args:
            n_windows: How many windows this batch had, to check the first axis.
            mask: Which tokens are real, for sites whose first two axes it fits.
        """
        for name, calls in self._calls.items():
            for k, (value, own) in enumerate(calls):
                key = name if len(calls) == 1 else f"{name}@{k}"
                known = own
                if known is None and mask is not None and value.ndim > 2:
                    known = mask if value.shape[:2] == mask.shape else None
                value = apply_reduction(value, known, self._reduce)
                if n_windows is not None and (value.ndim == 0 or len(value) != n_windows):
                    raise ValueError(
                        f"record: {key!r} has shape {value.shape} for {n_windows} windows: the "
                        "model folds another axis into the first. Give `reduce` a function that "
                        "brings the window axis back."
                    )
                if self._reduce != "none" and value.ndim < 3:
                    known = None
                self._batches.setdefault(key, []).append((value, known))
        self._calls = {}
        self._counts.clear()

    def activations(self) -> Activations:
        """Everything recorded so far, batches joined along window.

        Raises:
            ValueError: A site was never reached.
        """
        if self._calls:
            self.next_batch()
        data, masks = {}, {}
        for site in self._sites:
            keys = [k for k in self._batches if k == site.name or k.startswith(site.name + "@")]
            if not keys:
                raise ValueError(
                    f"record: {site.name!r} was never called during the run. Its module exists but "
                    "the forward pass does not go through it (or only in compiled code, where "
                    "hooks do not fire: record before torch.compile)."
                )
            for key in keys:
                data[key], mask = join_batches(key, self._batches[key])
                if mask is not None:
                    masks[key] = mask
        return Activations(data=data, mask=masks)


@overload
def record(
    model: nn.Module, sites: Sequence[str], *, run: None = None, reduce: Reduce = "none"
) -> Recorder: ...
@overload
def record(
    model: nn.Module,
    sites: Sequence[str],
    *,
    run: Callable[..., Any],
    batches: Iterable[Any] | None = None,
    reduce: Reduce = "none",
) -> Activations: ...
def record(
    model: nn.Module,
    sites: Sequence[str],
    *,
    run: Callable[..., Any] | None = None,
    batches: Iterable[Any] | None = None,
    reduce: Reduce = "none",
) -> Recorder | Activations:
    """Record what passes through named modules.

    With `run`, does the passes and returns `Activations`; the model is in evaluation mode and no
    gradient is kept meanwhile, and every module's mode is as before afterwards. Without, returns a
    context manager that changes nothing about how the model runs::

        with record(model, ["blocks.0"]) as recorder:
            model.encode(batch)
        recorder.activations()["blocks.0"]

    Hooks are removed when it ends, also by an exception. A module used several times per batch is
    returned as `name@0`, `name@1`, ...

    Args:
        sites: See the module's first lines; `sites(model)` lists the paths.
        run: Called with each of `batches`, such as `model.encode`; with nothing if there are none.
        batches: Batches or tensors. If `run` returns something with a `mask`, it marks the real
            tokens of the sites it fits.
        reduce: Applied batch by batch, to keep memory small: "none", "mean_tokens", "mean_time",
            "flatten" or a function of an array.

    Raises:
        ValueError: A site does not exist (near misses are named), was never reached, holds no
            single tensor, or does not have one row per window.
    """
    recorder = Recorder(model, sites, reduce)
    if run is None:
        if batches is not None:
            raise ValueError("record: batches were given without run; give run=model.encode.")
        return recorder
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), recorder:
            if batches is None:
                run()
            else:
                for batch in batches:
                    result = run(batch)
                    mask = getattr(result, "mask", None)
                    recorder.next_batch(
                        len(batch), _array(mask) if isinstance(mask, Tensor) else None
                    )
    finally:
        for module, training in modes:
            module.training = training
    return recorder.activations()


def recorded(
    model: nn.Module,
    sites: Sequence[str],
    *,
    run: Callable[..., Any],
    batches: Iterable[Any],
    reduce: Reduce = "none",
) -> Iterator[Activations]:
    """What `record` returns, one batch after the other, for more data than memory holds.

    For `write_shards`, `RunningMoments.update` or anything else that takes a part at a time.
    """
    for batch in batches:
        yield record(model, sites, run=run, batches=[batch], reduce=reduce)


def _array(value: Tensor) -> np.ndarray:
    # A copy: the next module may be an in-place activation.
    value = value.detach().to("cpu", copy=True)
    return (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()


def join_batches(
    name: str, parts: list[tuple[np.ndarray, np.ndarray | None]]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Concatenate along window; a second axis of varying length is padded with zeros and masked."""
    values = [value for value, _ in parts]
    inner = {value.shape[2:] for value in values}
    if len({value.ndim for value in values}) > 1 or len(inner) > 1:
        shapes = sorted({value.shape[1:] for value in values})
        raise ValueError(f"record: {name!r} changes shape between batches: {shapes}; use reduce.")
    lengths = {value.shape[1] for value in values if value.ndim > 1}
    if len(lengths) <= 1 and all(mask is None for _, mask in parts):
        return np.concatenate(values), None
    longest = max(lengths)
    padded, masks = [], []
    for value, mask in parts:
        if mask is None:
            mask = np.ones(value.shape[:2], dtype=bool)
        extra = longest - value.shape[1]
        padded.append(np.pad(value, [(0, 0), (0, extra)] + [(0, 0)] * (value.ndim - 2)))
        masks.append(np.pad(mask, [(0, 0), (0, extra)]))
    joined = np.concatenate(masks)
    return np.concatenate(padded), joined
