"""Finite scalar quantization: every feature is rounded to one of a few values.

There is no code book to learn and none to collapse: each of a handful of features is squeezed by
tanh into as many steps as it has levels, and rounded. A code is the number that the rounded
features spell, first feature fastest. Further quantizers round what the first left over, on the
same steps made finer.

Source: Mentzer et al. 2023 (arXiv 2309.15505), with its scale of 1 - 0.001 and its half step for
even counts.
Axes: feature = one rounded number; level = quantizer index, coarse first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neurofm.cards import configured
from neurofm.nn.quantize import Quantized, straight_through
from neurofm.shapes import Float, Int

EPS = 1e-3  # keeps the outermost values of tanh from being rounded to a step beyond the last


@configured
class FSQ(nn.Module):
    """Round features to a grid; gradients pass straight through.

    Args:
        dim: Features of the input; linear maps lead to the rounded features and back if they are
            not as many.
        steps: Values each feature can take, at least 3. The paper advises at least 5 of each:
            8, 6, 5 make 240 codes; 8, 5, 5, 5 make 1000; 7, 5, 5, 5, 5 make 4375.
        num_quantizers: 1 is the paper's. Each further one splits every step into as many again.
    """

    steps: Tensor
    reach: Tensor
    offset: Tensor
    radix: Tensor

    def __init__(self, dim: int, *, steps: Sequence[int], num_quantizers: int = 1) -> None:
        super().__init__()
        if not steps or min(steps) < 3:
            raise ValueError(f"FSQ: steps {tuple(steps)}, expected one number or more, each >= 3.")
        if num_quantizers < 1:
            raise ValueError(f"FSQ: num_quantizers is {num_quantizers}, expected at least 1.")
        n = len(steps)
        self.n_codes, self.n_levels = math.prod(steps), num_quantizers
        self.project_in = nn.Identity() if n == dim else nn.Linear(dim, n)
        self.project_out = nn.Identity() if n == dim else nn.Linear(n, dim)
        count = torch.tensor([float(step) for step in steps])
        radix = [math.prod(steps[:i]) for i in range(n)]
        fixed = {
            "steps": torch.tensor(list(steps)),
            "reach": (count - 1) * (1 - EPS) / 2,
            "offset": torch.where(count % 2 == 0, 0.5, 0.0),
            "radix": torch.tensor(radix),
        }
        for name, value in fixed.items():
            self.register_buffer(name, value, persistent=False)

    def forward(
        self, x: Float[Tensor, "... dim"], *, generator: torch.Generator | None = None
    ) -> Quantized:
        """Quantize vectors of any leading shape; the loss is 0. Nothing is drawn."""
        z = self.project_in(x)
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            bounded = self._bound(z)
            digits = self._round(bounded.detach())
            values = straight_through(bounded, self._values(digits))
        codes = (digits * self.radix).sum(-1)
        return Quantized(self.project_out(values), codes, z.new_zeros(()))

    def lookup(self, codes: Int[Tensor, "... level"]) -> Float[Tensor, "... dim"]:
        """Vectors of codes."""
        return self.project_out(self._values(self.digits(codes)))

    def digits(self, codes: Int[Tensor, "... level"]) -> Int[Tensor, "... level feature"]:
        """The step of each rounded feature, from 0."""
        return codes.unsqueeze(-1) // self.radix % self.steps

    def codes_of(self, values: Float[Tensor, "... feature"]) -> Int[Tensor, "... level"]:
        """Codes of values on the grid, between -1 and 1: what `lookup` gives without its map."""
        return (self._round(values) * self.radix).sum(-1)

    def _bound(self, z: Tensor) -> Tensor:
        """Between -1 and 1, with 0 where the input is 0, on a step for every count."""
        shift = torch.atanh(self.offset / self.reach)
        return (torch.tanh(z + shift) * self.reach - self.offset) / self._width

    @property
    def _width(self) -> Tensor:
        """Steps between the middle and the end: the unit of the values."""
        return (self.steps // 2).float()

    def _round(self, values: Tensor) -> Tensor:
        """Steps of bounded values, quantizer by quantizer, on a new axis before the last."""
        place = (values + 1) * self._width
        digits = []
        for _ in range(self.n_levels):
            digit = place.round().clamp(min=0).minimum(self.steps - 1)
            digits.append(digit.long())
            # What is left lies within half a step; that becomes the whole range of the next.
            place = (place - digit + 0.5) * self.steps - 0.5
        return torch.stack(digits, -2)

    def _values(self, digits: Tensor) -> Tensor:
        """Values of steps, from the finest quantizer to the coarsest."""
        finest, *coarser = reversed(digits.unbind(-2))
        place = finest.to(self.reach.dtype)
        for digit in coarser:
            place = digit + (place + 0.5) / self.steps - 0.5
        return place / self._width - 1
