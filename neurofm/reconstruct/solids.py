"""Things in three dimensions from embeddings: an occupancy decoder, and pictures of it all around.

There is no three-dimensional truth for what people saw in a scanner: results are compared as
pictures, the front one with the picture seen.

Source: Mescheder et al. 2019 (occupancy of points given a code); Mildenhall et al. 2020 (colours
composed along rays, Fourier features).
Axes: batch; point 3 (x right, y up, z towards the viewer; -1 to 1); depth height width = z y x of a
grid; view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm import cards
from neurofm.nn.draw import draw
from neurofm.reconstruct.small_generator import train
from neurofm.shapes import Bool, Float, Int

KINDS = ("sphere", "cube", "cylinder", "cone", "ring")


@dataclass(frozen=True)
class Solids:
    """Things on a grid.

    Args:
        occupancy: 0 (empty) to 1.
        colour: Red, green, blue, 0 to 1.
    """

    occupancy: Float[Tensor, "batch depth height width"]
    colour: Float[Tensor, "batch 3 depth height width"]

    def points(self, row: int, *, n: int = 1024, seed: int = 0) -> Float[Tensor, "point 6"]:
        """A cloud of points inside one thing: place and colour.

        Raises:
            ValueError: Nothing of it is occupied.
        """
        inside = (self.occupancy[row] > 0.5).nonzero()
        if not len(inside):
            raise ValueError(f"Solids: thing {row} has no occupied place.")
        generator = torch.Generator().manual_seed(seed)
        chosen = inside[torch.randint(len(inside), (n,), generator=generator)]
        size = torch.tensor(self.occupancy.shape[1:])
        jitter = torch.rand(chosen.shape, generator=generator)
        place = (2 * (chosen + jitter) / size - 1).flip(1)
        colour = self.colour[row][:, chosen[:, 0], chosen[:, 1], chosen[:, 2]].T
        return torch.cat([place, colour], dim=1)


@runtime_checkable
class Generator3D(Protocol):
    """Makes things of embeddings, by whatever is inside: a decoder, or optimisation."""

    def optimise(self, low: Tensor, high: Tensor) -> Solids:
        """One thing per row."""
        ...


def grid_points(size: int) -> Float[Tensor, "point 3"]:
    """Centres of the cells of a cube's grid, in the order of depth height width."""
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    return torch.stack([x, y, z], dim=-1).reshape(-1, 3)


def inside(
    points: Float[Tensor, "batch point 3"], kinds: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch point"]:
    """Which points lie in a thing of each kind (`KINDS`)."""
    x, y, z = points.unbind(-1)
    around = (x**2 + z**2).sqrt()
    answers = torch.stack(
        [
            (points.square().sum(-1) < 0.7**2),
            (points.abs().amax(-1) < 0.55),
            (around < 0.45) & (y.abs() < 0.7),
            (around < 0.6 * (0.7 - y) / 1.4) & (y.abs() < 0.7),
            ((x**2 + y**2).sqrt() - 0.5) ** 2 + z**2 < 0.2**2,
        ]
    )
    rows = torch.arange(len(kinds), device=points.device)
    return answers[kinds, rows]


@cards.configured
class OccupancyDecoder(nn.Module):
    """Is a point inside, and of which colour, given both embeddings: a small `Generator3D`.

    Args:
        low_dim: Of the low-level embedding.
        high_dim: Of the high-level embedding.
        width: Of the hidden layers.
        size: Cells along a side of the grid that `optimise` fills.
        waves: Frequencies per axis of a point's features.
    """

    def __init__(
        self, low_dim: int, high_dim: int, width: int = 96, size: int = 24, waves: int = 3
    ) -> None:
        super().__init__()
        self.low_dim, self.high_dim, self.size, self.waves = low_dim, high_dim, size, waves
        self.point = nn.Linear(3 + 6 * waves, width)
        self.code = nn.Linear(low_dim + high_dim, 2 * width)
        self.middle = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.answer = nn.Linear(width, 4)

    def forward(
        self,
        points: Float[Tensor, "batch point 3"],
        low: Float[Tensor, "batch low"],
        high: Float[Tensor, "batch high"],
    ) -> Float[Tensor, "batch point 4"]:
        """Logit of being inside, then of red, green and blue."""
        for name, code, dim in (("low", low, self.low_dim), ("high", high, self.high_dim)):
            if code.shape[1] != dim:
                raise ValueError(
                    f"OccupancyDecoder: {name} embedding of {code.shape[1]}, expected {dim}."
                )
        rates = math.pi * 2.0 ** torch.arange(self.waves, device=points.device)
        angles = (points.unsqueeze(-1) * rates).flatten(-2)
        features = self.point(torch.cat([points, angles.sin(), angles.cos()], dim=-1))
        scale, shift = self.code(torch.cat([low, high], dim=1)).unsqueeze(1).chunk(2, dim=-1)
        return self.answer(self.middle(features * (1 + scale) + shift))

    @torch.no_grad()
    def optimise(
        self, low: Float[Tensor, "batch low"], high: Float[Tensor, "batch high"]
    ) -> Solids:
        """Things on a grid, by one pass."""
        points = grid_points(self.size).to(low.device)
        found = [
            self(points.unsqueeze(0), a.unsqueeze(0), b.unsqueeze(0)).sigmoid()
            for a, b in zip(low, high, strict=True)
        ]
        grid = torch.cat(found).movedim(2, 1).unflatten(2, (self.size,) * 3)
        return Solids(grid[:, 0], grid[:, 1:])


def train_occupancy(
    low: Float[Tensor, "stimulus low"],
    high: Float[Tensor, "stimulus high"],
    kinds: Int[Tensor, " stimulus"],
    colours: Float[Tensor, "stimulus 3"],
    *,
    steps: int = 800,
    points: int = 256,
    width: int = 96,
    seed: int = 0,
) -> OccupancyDecoder:
    """A decoder of synthetic things, from the embeddings of pictures of them.

    Args:
        kinds: Index into `KINDS`.
        colours: 0 to 1.
        points: Random ones per thing and step.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = OccupancyDecoder(low.shape[1], high.shape[1], width=width)

    def loss(rows: Tensor) -> Tensor:
        where = 2 * draw(torch.rand, (len(rows), points, 3), generator, low.device) - 1
        real = inside(where, kinds[rows])
        answer = decoder(where, low[rows], high[rows])
        solid = F.binary_cross_entropy_with_logits(answer[..., 0], real.float())
        wrong = (answer[..., 1:].sigmoid() - colours[rows].unsqueeze(1)).square().mean(-1)
        return solid + 5 * (wrong * real).sum() / real.sum().clamp(min=1)

    batch = min(32, len(low))
    train(
        decoder.parameters(), loss, len(low), steps=steps, batch_size=batch, lr=5e-3,
        generator=generator,
    )  # fmt: skip
    return decoder.eval().requires_grad_(False)


def render(
    solids: Solids,
    azimuths: Sequence[float] | Float[Tensor, " view"],
    *,
    background: float | int = 1.0,
) -> Float[Tensor, "batch view 3 height width"]:
    """Pictures of things from around, differentiable in occupancy and colour.

    Args:
        azimuths: Radians around the vertical axis; 0 is the front, growing to the viewer's right.
        background: Grey value behind.
    """
    views = []
    occupancy = solids.occupancy.unsqueeze(1)
    both = torch.cat([occupancy, solids.colour * occupancy], dim=1)
    for angle in [float(a) for a in azimuths]:
        turn = torch.tensor(
            [
                [math.cos(angle), 0.0, math.sin(angle), 0.0],
                [0.0, 1.0, 0.0, 0.0],
                [-math.sin(angle), 0.0, math.cos(angle), 0.0],
            ],
            device=both.device,
            dtype=both.dtype,
        ).expand(len(both), 3, 4)
        grid = F.affine_grid(turn, list(both.shape), align_corners=False)
        turned = F.grid_sample(both, grid, align_corners=False) if angle else both
        turned = turned.flip((2, 3))  # the viewer's side first, the top row up
        dense = turned[:, :1].clamp(0, 1)
        through = torch.cat([torch.ones_like(dense[:, :, :1]), 1 - dense[:, :, :-1]], dim=2)
        through = through.cumprod(dim=2)
        picture = (through * turned[:, 1:]).sum(2)
        left = (through[:, :, -1:] * (1 - dense[:, :, -1:])).sum(2)
        views.append(picture + background * left)
    return torch.stack(views, dim=1)


def equal_azimuths(n: int = 8) -> list[float]:
    """Radians, `n` equally spaced from the front on."""
    return [2 * math.pi * i / n for i in range(n)]


def score_views(
    seen: Float[Tensor, "batch 3 height width"],
    solids: Solids,
    score: Callable[[Tensor, Tensor], Float[Tensor, " batch"]],
    *,
    n_views: int = 8,
) -> Float[Tensor, "batch view"]:
    """A score of each picture around a thing against the one picture seen.

    Args:
        seen: Front view; there is no other truth.
        score: Of seen and rendered images, one number for each; resize inside if sizes differ.

    Returns:
        Column 0 is the front; the mean over columns is what is published.
    """
    views = render(solids, equal_azimuths(n_views))
    return torch.stack([score(seen, views[:, i]) for i in range(n_views)], dim=1)
