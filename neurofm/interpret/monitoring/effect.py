"""Does a network need its massive activations: a metric with and without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from neurofm.interpret.patching import Context, patched

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class MassiveEffect:
    """A metric with massive activations as they are, set to zero, and set to their mean.

    If zero hurts and the mean does not, they are constants that the network relies on. The control
    sets as many random places to zero.
    """

    intact: float
    zero: float
    mean: float
    random_zero: float
    n_places: int

    def plot(self) -> Figure:
        """The four values side by side."""
        from neurofm.interpret.monitoring.drawings import draw_effect

        return draw_effect(self)


def massive_effect(
    model: nn.Module,
    site: str,
    places: Sequence[tuple[int, int]] | np.ndarray,
    *,
    metric: Callable[[], float],
    rng: np.random.Generator,
) -> MassiveEffect:
    """What a metric loses when massive activations are set to zero or to their mean.

    Args:
        site: Whose value is `batch token channel`.
        places: Token and channel of each.
        metric: Runs the model on fixed inputs and returns a number; called five times.
        rng: Draws as many other places for the control.
    """
    where = np.asarray(places, dtype=int)
    if where.ndim != 2 or where.shape[1] != 2 or not len(where):
        raise ValueError(
            f"massive_effect: places of shape {where.shape}; expected token and channel of at "
            "least one."
        )
    seen: list[np.ndarray] = []
    shapes: set[tuple[int, ...]] = set()

    def look(value: Tensor, _: Context) -> Tensor:
        seen.append(value[:, where[:, 0], where[:, 1]].detach().cpu().double().numpy())
        shapes.add(tuple(value.shape[1:]))
        return value

    def setting(at: np.ndarray, level: np.ndarray) -> Callable[[Tensor, Context], Tensor]:
        def change(value: Tensor, _: Context) -> Tensor:
            value = value.clone()
            value[:, at[:, 0], at[:, 1]] = value.new_tensor(level)
            return value

        return change

    def run(function: Callable[[Tensor, Context], Tensor]) -> float:
        with patched(model, {site: function}):
            return float(metric())

    intact = run(look)
    (shape,) = {s[:2] for s in shapes}
    free = np.setdiff1d(np.arange(np.prod(shape)), where[:, 0] * shape[1] + where[:, 1])
    if len(free) < len(where):
        raise ValueError(f"massive_effect: {len(where)} places of {shape} leave none to compare.")
    chosen = rng.choice(free, len(where), replace=False)
    others = np.column_stack([chosen // shape[1], chosen % shape[1]])
    zero = np.zeros(len(where))
    return MassiveEffect(
        intact=intact,
        zero=run(setting(where, zero)),
        mean=run(setting(where, np.concatenate(seen).mean(0))),
        random_zero=run(setting(others, zero)),
        n_places=len(where),
    )
