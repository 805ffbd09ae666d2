"""Path patching: does one place act on another directly, past everything in between?

The receiver is given what it would receive if the sender alone had its clean value and nothing else
on the way had noticed: first the sender is patched while all other places are held at their corrupt
values, and what arrives at the receiver is kept; then only that is put into a corrupt run.

Source: Wang et al. 2023; Goldowsky-Dill et al. 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from neurofm.interpret.causal.activation_patching import Patching, effect
from neurofm.interpret.causal.runs import (
    Metric,
    Run,
    array_of,
    contrast,
    inserted,
    logit_difference,
    rows_of,
    same_windows,
    score_of,
    still,
    values_at,
)
from neurofm.interpret.patching import Context, Patch, patched
from neurofm.interpret.places import names_of


@torch.no_grad()
def path_patching(
    model: nn.Module,
    clean: Any,
    corrupt: Any,
    sender: str,
    receivers: Sequence[str],
    *,
    frozen: Sequence[str],
    run: Run | None = None,
    metric: Metric | None = None,
) -> Patching:
    """Effect of the edge from a sender to each receiver.

    Args:
        sender: A site, such as `blocks.0.attention`.
        receivers: Sites that are inputs, such as `blocks.2.mlp:input`, or `head:input` for the edge
            to the output.
        frozen: Everything through which the sender could act on a receiver and that is not part of
            the edge, such as the attention and MLP outputs between them. The sender is left out.
        metric: As in `activation_patching`.

    Returns:
        Effects of denoising, by edge.
    """
    same_windows(clean, corrupt)
    receivers = names_of(receivers, who="path_patching")
    if sender in receivers:
        raise ValueError(f"path_patching: {sender!r} is the sender and a receiver.")
    held = [site for site in names_of(frozen, who="path_patching", least=0) if site != sender]
    out_clean, there = values_at(model, clean, [sender], run=run)
    out_corrupt, here = values_at(model, corrupt, held, run=run)
    out_clean, out_corrupt = (rows_of(out, len(clean)) for out in (out_clean, out_corrupt))
    if metric is None:
        metric = logit_difference(*contrast(out_clean, out_corrupt))
    full, none = score_of(metric, out_clean), score_of(metric, out_corrupt)
    arrived: dict[str, list[torch.Tensor]] = {site: [] for site in receivers}

    def keep(value: torch.Tensor, context: Context) -> torch.Tensor:
        arrived[context.site].append(value.clone())
        return value

    patches: dict[str, Patch] = {**inserted({**here, **there}), **dict.fromkeys(receivers, keep)}
    with still(model), patched(model, patches):
        (run or model)(corrupt)
    scores = []
    for site in receivers:
        with still(model), patched(model, inserted({site: arrived[site]})):
            scores.append(score_of(metric, rows_of((run or model)(corrupt), len(corrupt))))
    score = torch.stack(scores)
    return Patching(
        names=tuple(f"{sender} → {site}" for site in receivers),
        effect=effect(score, full, none, "denoise"),
        score=array_of(score),
        clean=array_of(full),
        corrupt=array_of(none),
        direction="denoise",
    )
