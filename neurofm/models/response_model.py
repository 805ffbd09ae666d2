"""CoreReadout: a core, shared by all people, and a readout for all or for each of them.

Source: Visual-Stream-Modeling (arXiv 2410.14031), where people are one person with more voxels;
readouts of their own after Lurz et al. 2021.
Axes: batch rgb height width (or what the core takes); batch dim row column; channel = voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurofm.cards import configured
from neurofm.shapes import Float


@configured
class CoreReadout(nn.Module):
    """Responses from what a readout sees in the feature maps of a core.

    Args:
        core: From stimuli to feature maps; a frozen one keeps no gradients.
        readouts: One for everybody (people are then either alike or put side by side along the
            channels, with masks), or one for each person, in the order of the data's people. People
            may have different numbers of channels: predictions are as long as the longest, and 0
            behind a person's own.
        localiser: From stimuli to the small map that a `SemanticReadout` moves by.
    """

    def __init__(
        self,
        core: nn.Module,
        readouts: nn.Module | Sequence[nn.Module],
        *,
        localiser: nn.Module | None = None,
    ) -> None:
        super().__init__()
        given = [readouts] if isinstance(readouts, nn.Module) else list(readouts)
        if not given:
            raise ValueError("CoreReadout: no readouts; expected one, or one for each person.")
        self.core, self.localiser = core, localiser
        self.readouts = nn.ModuleList(given)
        sizes: list[int] = [part.n_channels for part in given]  # type: ignore[misc]
        self.n_channels = max(sizes)

    def see(self, stimulus: Tensor) -> list[Tensor]:
        """What readouts are given: feature maps, and the small map if there is one."""
        maps = self.core(stimulus)
        return [maps] if self.localiser is None else [maps, self.localiser(stimulus)]

    def respond(self, stimulus: Tensor, *, subject: Tensor | None = None) -> Tensor:
        """Responses to each stimulus, batch x channel.

        Args:
            subject: Who saw it (batch), where people have readouts of their own.

        Raises:
            ValueError: It is not said who, or somebody has no readout.
        """
        seen = self.see(stimulus)
        if len(self.readouts) == 1:
            return self.readouts[0](*seen)
        if subject is None:
            raise ValueError(
                f"CoreReadout: {len(self.readouts)} people have readouts of their own; say with "
                "`subject` who saw each stimulus."
            )
        known = len(self.readouts)
        if bool(((subject < 0) | (subject >= known)).any()):
            raise ValueError(
                f"CoreReadout: responses of person {int(subject.max())} are asked for, there are "
                f"readouts of {known} people (0 to {known - 1})."
            )
        out = seen[0].new_zeros(len(seen[0]), self.n_channels)
        for person, readout in enumerate(self.readouts):
            rows = (subject == person).nonzero().flatten()
            if len(rows):
                found = readout(*(part[rows] for part in seen))
                out = out.index_put((rows[:, None], torch.arange(found.shape[1])), found)
        return out

    def forward(
        self, stimulus: Tensor, *, subject: Tensor | None = None
    ) -> Float[Tensor, "batch channel"]:
        """The same."""
        return self.respond(stimulus, subject=subject)

    def penalty(self) -> Float[Tensor, ""]:
        """What is added to the loss, of all readouts that have such a thing."""
        parts: list[Any] = [part for part in self.readouts if hasattr(part, "penalty")]
        if not parts:
            return torch.zeros((), device=next(self.readouts.parameters()).device)
        return torch.stack([part.penalty() for part in parts]).sum()
