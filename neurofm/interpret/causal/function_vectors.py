"""Function vectors: the few attention heads that carry what a prompt asks for.

For brain models the task is the prompt: a token of the subject or the task, or trials given as
examples. The mean output of a head over trials of the task is put into runs whose prompt is
corrupted; the heads that bring the answer back are summed, through their output matrix, to one
vector, which added to a run without any prompt should do the task.

Source: Todd et al. 2024 (10 heads, 100 trials for means, 25 for effects).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret.causal.runs import (
    Edit,
    Metric,
    Run,
    array_of,
    each_run,
    rows_of,
    score_of,
    values_at,
)
from neurofm.interpret.causal.steering import Tokens, token_values
from neurofm.interpret.places import find, index, names_of
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FunctionVector:
    """Sum over the heads that carry a task.

    Args:
        vector: To add to the residual stream, with `steering.added`.
        heads: All sites tried.
        effect: Mean change of the metric by the task mean of each head in corrupted runs.
        top: The heads summed, largest effect first.
    """

    vector: Float[Tensor, " dim"]
    heads: tuple[str, ...]
    effect: Float[np.ndarray, " head"]
    top: tuple[str, ...]

    def plot(self) -> Figure:
        """Effects of the heads, largest first."""
        from neurofm.figures import plot_bars

        order = np.argsort(-self.effect, kind="stable")[:24]
        bars = {self.heads[k]: float(self.effect[k]) for k in order}
        marks = {name: "*" for name in self.top}
        title = f"{len(self.top)} of {len(self.heads)} heads in the vector (*)"
        return plot_bars(bars, title=title, unit="indirect effect (logit)", marks=marks)


@torch.no_grad()
def function_vector(
    model: nn.Module,
    heads: Sequence[str],
    trials: Any,
    corrupted: Any,
    metric: Metric,
    *,
    n_heads: int = 10,
    tokens: Tokens = "last",
    run: Run | None = None,
) -> FunctionVector:
    """Find the heads that carry a task, and their vector.

    Args:
        heads: Sites of heads where they enter their output matrix, as
            `each("blocks.0.attention.project:input", "head", 8)`; the module is a Linear.
        trials: Of the task, about 100.
        corrupted: With prompts that do not tell the task, about 25.
        metric: Of the output for the corrupted trials: the logit of the right answer.
        n_heads: How many are summed.
        tokens: The last real token, where the answer is given, or the mean over tokens, which then
            is also what is replaced.
    """
    heads = names_of(heads, who="function_vector")
    if not 1 <= n_heads <= len(heads):
        raise ValueError(f"function_vector: {n_heads} of {len(heads)} heads to sum.")
    matrices = {site: _matrix(model, site) for site in heads}
    means = {
        site: token_values(model, trials, site, run=run, tokens=tokens).mean(0) for site in heads
    }
    out, values = values_at(model, corrupted, heads, run=run)
    plain = score_of(metric, rows_of(out, len(corrupted)))

    def to_mean(site: str) -> Edit:
        def change(value: Tensor, _: Tensor) -> Tensor:
            changed = value.clone()
            if tokens == "last" and value.ndim > 2:
                changed[:, -1] = means[site].to(value)
            else:
                changed[:] = means[site].to(value)
            return changed

        return Edit(site, change)

    edits = [to_mean(site) for site in heads]
    outs = each_run(model, corrupted, edits, values, run=run)
    effect = np.array([array_of(score_of(metric, out) - plain).mean() for out in outs])
    order = np.argsort(-effect, kind="stable")[:n_heads]
    top = tuple(heads[k] for k in order)
    vector = torch.stack([matrices[site].double() @ means[site].double() for site in top]).sum(0)
    return FunctionVector(vector, tuple(heads), effect, top)


def _matrix(model: nn.Module, site: str) -> Tensor:
    """Columns of the output matrix that read a head."""
    found = find(model, site, who="function_vector")
    if not isinstance(found.module, nn.Linear) or found.where != "input" or not found.select:
        raise ValueError(
            f"function_vector: {site!r} is not a head entering a Linear; write it as "
            "'path.of.projection:input[head=0/8]'."
        )
    return found.module.weight[:, index(found, (1, 1, found.module.in_features))[-1]]
