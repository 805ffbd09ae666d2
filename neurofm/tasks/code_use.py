"""How often each code occurred over an epoch, stage by stage, in a memory that does not grow."""

from __future__ import annotations

from torch import Tensor

from neurofm.nn import count_codes, health_of_counts
from neurofm.nn.processes import all_reduce
from neurofm.shapes import Int


class CodeUse:
    """Counts codes of batches and summarises them at the end of an epoch, over all processes."""

    def __init__(self) -> None:
        self._counts: dict[str, Tensor] = {}

    def add(self, stage: str, codes: Int[Tensor, "... level"], n_codes: int) -> None:
        """Count the codes of a batch."""
        counts = count_codes(codes.detach(), n_codes)
        self._counts[stage] = self._counts[stage] + counts if stage in self._counts else counts

    def pop(self, stage: str) -> dict[str, float]:
        """Mean over levels of each line of `nn.health_of_counts`, and start afresh.

        Nothing if no batch came, as in an epoch that a resumed run finds finished.
        """
        counts = self._counts.pop(stage, None)
        if counts is None:
            return {}
        all_reduce(counts)
        health = health_of_counts(counts)
        return {name: sum(levels) / len(levels) for name, levels in health.items()}
