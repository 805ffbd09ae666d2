"""Activation maximisation: signals that drive an objective of a network, written by a prior.

Several restarts are optimised as one batch by Adam, with small random changes of the signals at
each step; the network is in evaluation mode and nothing of it is changed. What is found is then
measured again without those changes, beside real windows, pure tones and a control.

Source: Erhan et al. 2009; Nguyen et al. 2016 (generators, arXiv 1605.09304; diversity and facets in
`multifaceted`).
Axes: signal channel time (or signal channel height width).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.batch import Batch
from neurofm.interpret.attribution.evidence import Sensing, repeated, sensing_of, with_inputs
from neurofm.interpret.attribution.sanity import randomized_copy
from neurofm.interpret.causal.runs import array_of, still
from neurofm.interpret.synthesis.objectives import Objective, Run, Seen, see
from neurofm.interpret.synthesis.regularisers import LogSpectrum, Regulariser, Transforms
from neurofm.interpret.synthesis.result import Synthesis, power_density
from neurofm.interpret.synthesis.signals import Prior, windows_of
from neurofm.interpret.synthesis.tuning import measure_tuning
from neurofm.shapes import Float

Control = Literal["weights", "unit", "none"]
Change = Callable[[Tensor, torch.Generator], Tensor]
ROWS = 64  # windows in one pass
MOST = 512  # real windows compared with
NARROWEST = 1 / 16  # of a window, standard deviation of where a centred search may change at first


@dataclass(frozen=True)
class _Search:
    """One network, one objective, and how it is climbed."""

    model: nn.Module
    run: Run
    prior: Prior
    windows: Any
    steps: int
    restarts: int
    lr: float
    regularisers: Sequence[tuple[float | int, Regulariser]]
    transforms: Change | None
    start: Tensor | None
    centred: bool
    diversity: float
    patience: int
    tolerance: float

    def inputs(self, x: Tensor) -> Any:
        """Signals as the network takes them: with the sensors of the first window."""
        if not isinstance(self.windows, Batch):
            return x
        first = self.windows._map(lambda tensor: tensor[:1])
        return with_inputs(repeated(first, len(x)), x)

    def seen(self, objective: Objective, x: Tensor) -> Seen:
        """One pass."""
        return see(self.model, self.run, objective.sites, self.inputs(x), len(x))

    def scores(self, objective: Objective, x: Tensor) -> Float[np.ndarray, " signal"]:
        """The objective of signals as they are."""
        with still(self.model):
            parts = [objective.score(self.seen(objective, part)) for part in x.split(ROWS)]
        return array_of(torch.cat(parts))


def maximise(
    model: nn.Module,
    objective: Objective,
    prior: Prior,
    *,
    windows: Any = None,
    run: Run | None = None,
    sfreq: float | int | None = None,
    steps: int = 256,
    restarts: int = 8,
    lr: float | int = 0.05,
    n_signals: int = 1,
    regularisers: Sequence[tuple[float | int, Regulariser]] = (),
    transforms: Change | Literal["default"] | None = "default",
    start: Tensor | None = None,
    centred: bool = False,
    diversity: float | int = 0.0,
    patience: int = 50,
    tolerance: float | int = 1e-3,
    control: Control = "weights",
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Synthesis:
    """Signals that drive an objective.

    Args:
        objective: `Unit`, `Direction`, `Logit`, `Pattern`, `Latent`, or a weighted sum.
        prior: How signals are written, such as `SpectralPrior.of(windows, band=(1, 45))`.
        windows: Real windows, a Batch or a tensor of the inputs' shape: what the objective, the
            spectrum and the tuning are compared with. A Batch also says where the sensors are.
        run: From inputs to the output; if not given the model, or its `encode` if it has no
            forward of its own.
        sfreq: Hz, where windows are a plain tensor.
        steps: At most.
        restarts: Signals optimised together.
        lr: Of Adam, in units of the prior's parameters.
        n_signals: Of the restarts, the best so many are returned.
        regularisers: Pairs of weight and `regularisers`, subtracted from the objective in standard
            deviations of real windows.
        transforms: Random changes at each step, a `Transforms` or a function of signals and
            generator; `Transforms()` for signals, `images.jitter` for images; None for none.
        start: Signals to start from, one per restart.
        centred: Let the middle of the window change first and its edges last (centre-biased).
        diversity: Weight of the mean cosine between what the signals make at the objective's sites.
        patience: Stop when so many steps gain less than `tolerance` (in the unit above; relative
            without real windows).
        control: The same procedure for a network with random "weights", for another "unit" at the
            same place, or "none".
        generator: Of all that is random; one from `seed` if not given.

    Raises:
        ValueError: No gradient from the objective to the signals, a site or unit that does not
            exist, windows of another shape.
    """
    if steps < 1 or not 1 <= n_signals <= restarts:
        raise ValueError(
            f"maximise: {steps} steps, {n_signals} signals of {restarts} restarts; expected at "
            "least one step, and signals between 1 and restarts."
        )
    if start is not None:
        restarts = len(start)
    generator = generator or torch.Generator().manual_seed(seed)
    search = _Search(
        model,
        run_of(model) if run is None else run,
        prior,
        windows,
        steps,
        restarts,
        lr,
        regularisers,
        _changes(transforms, windows),
        start,
        centred,
        diversity,
        patience,
        tolerance,
    )
    found = _synthesise(search, objective, generator, min(n_signals, restarts), sfreq, tuned=True)
    if control == "none":
        return found
    other: Objective = objective
    if control == "unit":
        with torch.no_grad():
            shape = prior.signals(prior.draw(1, generator))
        with still(model):
            other = objective.other(search.seen(objective, shape), generator)
        twin = _synthesise(search, other, generator, 1, sfreq)
    elif control == "weights":
        with random_weights(model, generator):
            twin = _synthesise(search, objective, generator, 1, sfreq)
    else:
        raise ValueError(f"maximise: control={control!r} is not 'weights', 'unit' or 'none'.")
    shown = torch.from_numpy(twin.signals).to(prior.signals(prior.draw(1, generator)))
    return replace(
        found,
        control=twin,
        control_kind=control,
        control_values=search.scores(objective, shown),
    )


def run_of(model: nn.Module) -> Run:
    """The model itself, or its `encode` where it has no forward."""
    if type(model).forward is nn.Module.forward and hasattr(model, "encode"):
        return cast(Run, model.encode)
    return model


@contextmanager
def random_weights(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """A block in which the model's weights are those of `randomized_copy`; then its own again.

    The same tensors come back, so that functions made of this model (`run`) can be used inside.
    """
    other = randomized_copy(model, generator=generator)
    pairs = list(zip(_tensors(model), _tensors(other), strict=True))
    own = [(mine, mine.data) for mine, _ in pairs]
    try:
        for mine, drawn in pairs:
            mine.data = drawn.data
        yield
    finally:
        for mine, data in own:
            mine.data = data


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _changes(transforms: Change | str | None, windows: Any) -> Change | None:
    if not isinstance(transforms, str):
        return transforms
    x = windows.x if isinstance(windows, Batch) else windows
    if x is not None and x.ndim != 3:
        from neurofm.interpret.synthesis.images import jitter

        return jitter()
    return Transforms()


def _synthesise(
    search: _Search,
    objective: Objective,
    generator: torch.Generator,
    n_signals: int,
    sfreq: float | int | None,
    *,
    tuned: bool = False,
) -> Synthesis:
    real, x = np.empty(0), None
    if search.windows is not None:
        x = _some(search.windows)
        real = _real_scores(search, objective, x)
    parameters, trace = _climb(search, objective, generator, real)
    with torch.no_grad():
        signals = search.prior.signals(parameters)
    values = search.scores(objective, signals)
    order = np.argsort(-values, kind="stable")[:n_signals]
    signals = signals[torch.from_numpy(order.copy()).to(signals.device)]
    sensors, unit = _sensors(search.windows, sfreq, signals)
    result = Synthesis(
        signals=signals.cpu().numpy(),
        values=values[order],
        trace=trace[:, order],
        objective=str(objective),
        real=real,
        unlikeness=np.full(len(order), np.nan),
        real_unlikeness=np.empty(0),
        sensors=sensors,
        unit=unit,
        stopped=len(trace),
    )
    if x is None or sensors is None or x.ndim != 3:
        return result
    band = _band_of(signals, search.prior, generator, sensors.sfreq)
    usual = LogSpectrum.of(x, sfreq=sensors.sfreq, band=band)
    result = replace(
        result,
        unlikeness=array_of(usual(signals.to(x))),
        real_unlikeness=array_of(usual(x)),
        background=power_density(x.cpu().numpy(), sensors.sfreq)[1],
    )
    if not tuned:
        return result

    def score(probe: Tensor) -> np.ndarray:
        return search.scores(objective, probe)

    return replace(result, tuning=measure_tuning(score, result, x, band, generator))


def _climb(
    search: _Search, objective: Objective, generator: torch.Generator, real: np.ndarray
) -> tuple[Tensor, Float[np.ndarray, "step signal"]]:
    """Parameters after the search, and the objective at each step."""
    prior, n = search.prior, search.restarts
    drawn = prior.draw(n, generator) if search.start is None else prior.encode(search.start)
    parameters = drawn.detach().clone().requires_grad_()
    spread = float(real.std()) if real.size > 1 else 0.0
    scale = spread if spread > 0 else 1.0
    trace: list[np.ndarray] = []
    with still(search.model, gradients=True):
        step = prior.stepper(parameters, search.steps, search.lr)
        for k in range(search.steps):
            x = prior.signals(parameters)
            if search.centred:
                x.register_hook(_window(x, k / search.steps))
            shown = x if search.transforms is None else search.transforms(x, generator)
            seen = search.seen(objective, shown)
            score = objective.score(seen)
            loss = -(score / scale).sum()
            for weight, regulariser in search.regularisers:
                loss = loss + weight * regulariser(x).sum()
            if search.diversity:
                loss = loss + search.diversity * n * _alike(seen)
            parameters.grad = _gradient(loss, parameters, k)
            trace.append(array_of(score))
            step(k)
            prior.settle(parameters)
            if _stuck(trace, search, scale if spread > 0 else None):
                break
    return parameters.detach(), np.stack(trace)


def _gradient(loss: Tensor, parameters: Tensor, k: int) -> Tensor:
    if not loss.requires_grad:
        raise ValueError(
            "maximise: the objective does not depend differentiably on the signals (codes chosen "
            "by a step without gradient, or torch.no_grad inside `run`)."
        )
    (gradient,) = torch.autograd.grad(loss, parameters, allow_unused=True)
    if gradient is None:
        raise ValueError("maximise: no gradient of the objective reaches the signals.")
    if not torch.isfinite(gradient).all():
        raise ValueError(
            f"maximise: the gradient at step {k} is not finite. If the network takes logarithms, "
            "give transforms=Transforms(dropout=0), so that no channel is silent, and the prior "
            "start=1."
        )
    return gradient


def _stuck(trace: list[np.ndarray], search: _Search, scale: float | int | None) -> bool:
    """True when the best restart gained too little over the last `patience` steps."""
    if len(trace) <= 2 * search.patience or len(trace) % 10:
        return False
    best = np.maximum.accumulate(np.stack(trace), axis=0).max(1)
    gain = best[-1] - best[-1 - search.patience]
    return bool(gain < search.tolerance * (scale or max(abs(best[-1]), 1e-12)))


def _window(x: Tensor, progress: float) -> Callable[[Tensor], Tensor]:
    """Gaussian around the middle of the last axis, as wide as the window in the end."""
    at = torch.linspace(-0.5, 0.5, x.shape[-1]).to(x)
    width = NARROWEST * (1 / NARROWEST) ** progress
    bell = (-0.5 * (at / width).square()).exp()
    return lambda gradient: gradient * bell


def _alike(seen: Seen) -> Tensor:
    """Mean cosine between different signals' values."""
    rows = [value.flatten(1) for site in seen.values for value, _ in seen.at(site)]
    made = torch.cat(rows, 1) if rows else seen.output
    unit = torch.nn.functional.normalize(made, dim=1)
    n = max(len(unit), 2)
    return ((unit @ unit.T).sum() - len(unit)) / (n * (n - 1))


def _some(windows: Any) -> Tensor:
    x = windows_of(windows) if isinstance(windows, Batch) else torch.as_tensor(windows).detach()
    if len(x) <= MOST:
        return x
    return x[torch.linspace(0, len(x) - 1, MOST).long().to(x.device)]


def _real_scores(search: _Search, objective: Objective, x: Tensor) -> np.ndarray:
    shape = search.prior.signals(search.prior.draw(1, torch.Generator())).shape[1:]
    if x.shape[1:] != shape:
        raise ValueError(
            f"maximise: windows of {tuple(x.shape[1:])} for signals of {tuple(shape)}; make the "
            "prior of the same windows."
        )
    return search.scores(objective, x)


def _sensors(
    windows: Any, sfreq: float | int | None, signals: Tensor
) -> tuple[Sensing | None, str]:
    if isinstance(windows, Batch):
        return sensing_of(windows), "µV" if windows.unit == "physical" else windows.unit
    if sfreq is None or signals.ndim != 3:
        return None, "input"
    nowhere = np.full((signals.shape[1], 3), np.nan)
    return Sensing((), nowhere, float(sfreq), "input"), "input"


def _band_of(
    signals: Tensor, prior: Prior, generator: torch.Generator, sfreq: float
) -> tuple[float, float]:
    """Hz, where the prior can have power."""
    with torch.no_grad():
        drawn = prior.signals(prior.draw(8, generator)).cpu().numpy()
    frequency, power = power_density(drawn, sfreq)
    power = power.sum(0)
    inside = frequency[(power > 1e-8 * power.max()) & (frequency > 0)]
    return (float(inside.min()), float(inside.max())) if inside.size else (0.0, sfreq / 2)
