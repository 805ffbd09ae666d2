"""How often each code occurred over an epoch, stage by stage, in a memory that does not grow."""

from __future__ import annotations

from torch import Tensor

from neurofm.nn import count_codes, health_of_counts
from neurofm.nn.processes import all_reduce
from neurofm.shapes import Int

# A code book has collapsed when its perplexity is below this share of its codes, ...
COLLAPSED = 0.05
# ... or when it uses less than this share of the codes it used in its best epoch.
FALLEN = 0.5
# An epoch says something about a code book if it has this many tokens for each code.
TOKENS_PER_CODE = 10


class CodeUse:
    """Counts codes of batches and summarises them at the end of an epoch, over all processes."""

    def __init__(self) -> None:
        self._counts: dict[str, Tensor] = {}
        self._best: dict[tuple[str, int], float] = {}
        # What is wrong with the code book of the epoch popped last; "" if nothing.
        self.problem = ""

    def add(self, stage: str, codes: Int[Tensor, "... level"], n_codes: int) -> None:
        """Count the codes of a batch."""
        counts = count_codes(codes.detach(), n_codes)
        self._counts[stage] = self._counts[stage] + counts if stage in self._counts else counts

    def pop(self, stage: str) -> dict[str, float]:
        """Mean over levels of each line of `nn.health_of_counts`, and `size`; start afresh.

        With several levels also `usage_level_1`, `perplexity_level_1`, `dead_level_1` and so on,
        coarsest first. Nothing if no batch came, as in an epoch that a resumed run finds finished.
        """
        counts = self._counts.pop(stage, None)
        if counts is None:
            return {}
        all_reduce(counts)
        health = health_of_counts(counts)
        self._judge(stage, counts, health)
        out = {name: sum(levels) / len(levels) for name, levels in health.items()}
        out["size"] = float(counts.shape[1])
        if len(counts) > 1:
            for name in ("usage", "perplexity", "dead"):
                for level, value in enumerate(health[name], start=1):
                    out[f"{name}_level_{level}"] = value
        return out

    def _judge(self, stage: str, counts: Tensor, health: dict[str, list[float]]) -> None:
        self.problem = ""
        n_codes = counts.shape[1]
        for level, tokens in enumerate(counts.sum(1).tolist()):
            if tokens < TOKENS_PER_CODE * n_codes:
                continue
            where = f"level {level + 1} of {len(counts)}" if len(counts) > 1 else "the code book"
            usage, perplexity = health["usage"][level], health["perplexity"][level]
            best = self._best.get((stage, level), 0.0)
            self._best[stage, level] = max(best, usage)
            if perplexity < max(COLLAPSED * n_codes, 1.5):
                self.problem = (
                    f"{where} has collapsed: {tokens} tokens use its {n_codes} codes like "
                    f"{perplexity:.1f} equally frequent ones"
                )
            elif usage < FALLEN * best:
                self.problem = (
                    f"{where} is collapsing: {100 * usage:.0f} % of its codes are in use, after "
                    f"{100 * best:.0f} % in an earlier epoch"
                )
