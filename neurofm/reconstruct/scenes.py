"""A world small enough to reconstruct in a minute: coloured shapes, captions, and who sees them.

A scene is one shape of one colour on a plain ground. A simulated brain answers to any image, drawn
or generated: `V1` to contours of one orientation in a small receptive field, `V4` to colour in a
larger one, `object` to what is there wherever it is, `none` to nothing. So what a decoder finds in
a region, and what an image made for a region does, can be compared with the truth.

Source: St-Yves & Naselaris 2018 (receptive fields over features).
Axes: stimulus, 3 height width (0 to 1); voxel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.shapes import Bool, Float, Int

SHAPES = ("circle", "square", "triangle", "ring", "cross")
COLOURS = {
    "red": (0.85, 0.15, 0.15),
    "green": (0.15, 0.65, 0.25),
    "blue": (0.15, 0.30, 0.85),
    "yellow": (0.92, 0.82, 0.15),
    "purple": (0.60, 0.20, 0.70),
}
PLACES = ("left", "middle", "right")
REGIONS = {"V1": 0.3, "V4": 0.2, "object": 0.3, "none": 0.2}  # share of the voxels
# Every word of a caption, in their order; "" fills up.
WORDS = ("", "a", "small", "large", *COLOURS, *SHAPES, "on", "the", *PLACES)


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes.

    Args:
        images: 0 to 1.
        captions: Such as "a large red ring on the left".
        shape: Index into `SHAPES`.
        colour: Index into `COLOURS`.
    """

    images: Float[Tensor, "stimulus 3 height width"]
    captions: tuple[str, ...]
    shape: Int[Tensor, " stimulus"]
    colour: Int[Tensor, " stimulus"]

    def __len__(self) -> int:
        return len(self.captions)


def draw_scenes(n: int, *, size: int = 32, seed: int = 0) -> Scenes:
    """Random scenes, always the same for a seed.

    Args:
        size: Pixels of a side, 16 or more.
    """
    if size < 16 or n < 1:
        raise ValueError(f"draw_scenes: {n} scenes of {size} pixels; expected 1 up and 16 up.")
    rng = np.random.default_rng(seed)
    shape, colour = rng.integers(len(SHAPES), size=n), rng.integers(len(COLOURS), size=n)
    place = rng.integers(3, size=n)
    large = rng.random(n) < 0.5
    radius = np.where(large, rng.uniform(0.28, 0.34, n), rng.uniform(0.16, 0.21, n))
    x = (place + 1) / 4 + rng.uniform(-0.05, 0.05, n)
    y = rng.uniform(0.4, 0.6, n)
    ground = rng.uniform(0.75, 0.95, (n, 1, 1, 1)) + rng.normal(0, 0.02, (n, 3, 1, 1))
    tint = np.array(list(COLOURS.values()))[colour] * rng.uniform(0.85, 1.1, (n, 1))
    at = (np.arange(size) + 0.5) / size
    down, across = at[None, :, None] - y[:, None, None], at[None, None, :] - x[:, None, None]
    distance = _distance(across / radius[:, None, None], down / radius[:, None, None], shape)
    inside = np.clip(0.5 - distance * radius[:, None, None] * size, 0, 1)[:, None]
    images = inside * tint[:, :, None, None] + (1 - inside) * ground
    names = list(COLOURS)
    captions = tuple(
        f"a {'large' if big else 'small'} {names[c]} {SHAPES[s]} on the {PLACES[p]}"
        for big, c, s, p in zip(large, colour, shape, place, strict=True)
    )
    return Scenes(
        torch.from_numpy(images.clip(0, 1).astype(np.float32)),
        *(captions, torch.from_numpy(shape), torch.from_numpy(colour)),
    )


def _distance(x: np.ndarray, y: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """How far outside the outline, in units of the radius, about."""
    far, wide, high = np.hypot(x, y), np.abs(x), np.abs(y)
    slope = math.sqrt(3) / 2
    bars = np.minimum(
        np.maximum(wide - 1, high - 0.3), np.maximum(high - 1, wide - 0.3)
    )  # two of them
    answers = np.stack(
        [
            far - 0.95,
            np.maximum(wide, high) - 0.82,
            np.maximum(slope * wide - 0.5 * y - 0.5, y - 0.7),
            np.abs(far - 0.72) - 0.26,
            bars,
        ]
    )
    return answers[kind, np.arange(len(kind))]


class SceneBrain(nn.Module):
    """A simulated person: responses to any images, differentiable, and noisy measurements of them.

    Args:
        n_voxels: In all regions (`REGIONS`).
        size: Pixels of the images it knows.
        noise: Standard deviation; responses over scenes have variance 1.
        seed: Of the person.
    """

    early_field: Tensor
    colour_field: Tensor
    angle: Tensor
    tint: Tensor
    first: Tensor
    second: Tensor
    weight: Tensor
    level: Tensor
    spread: Tensor

    def __init__(
        self, n_voxels: int = 600, *, size: int = 32, noise: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        rng = np.random.default_rng([seed, 7])
        shares = np.array(list(REGIONS.values()))
        counts = np.floor(shares * n_voxels).astype(int)
        counts[-1] += n_voxels - counts.sum()
        self.region = tuple(np.repeat(list(REGIONS), counts).tolist())
        self.noise, self.seed, self.n_channels = noise, seed, n_voxels
        fields = [self._fields(rng, int(counts[i]), size, w) for i, w in ((0, 0.08), (1, 0.14))]
        self.register_buffer("early_field", fields[0])
        self.register_buffer("colour_field", fields[1])
        self.register_buffer("angle", _tensor(rng.uniform(0, np.pi, counts[0])))
        self.register_buffer("tint", _tensor(rng.standard_normal((counts[1], 3))))
        # One retina and ventral stream for all people; only weights on it are personal.
        shared = np.random.default_rng(11)
        self.register_buffer("first", _tensor(shared.standard_normal((24, 3, 5, 5)) / 5))
        self.register_buffer("second", _tensor(shared.standard_normal((48, 24, 5, 5)) / 12))
        self.register_buffer("weight", _tensor(rng.standard_normal((counts[2], 96)) / 8))
        self.register_buffer("level", torch.zeros(n_voxels))
        self.register_buffer("spread", torch.ones(n_voxels))
        with torch.no_grad():
            usual = self.answer(draw_scenes(256, size=size, seed=10_000).images)
        self.level.copy_(usual.mean(0))
        self.spread.copy_(usual.std(0).clamp(min=1e-6))

    @staticmethod
    def _fields(rng: np.random.Generator, n: int, size: int, width: float) -> Tensor:
        at = (np.arange(size) + 0.5) / size
        centre = rng.uniform(0.1, 0.9, (2, n, 1, 1))
        square = (at[None, :, None] - centre[0]) ** 2 + (at[None, None, :] - centre[1]) ** 2
        bell = np.exp(-0.5 * square / width**2)
        return _tensor(bell / bell.sum(axis=(1, 2), keepdims=True))

    def regions(self) -> dict[str, Bool[np.ndarray, " voxel"]]:
        """Mask of each region."""
        names = np.array(self.region)
        return {name: names == name for name in REGIONS}

    def answer(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """What voxels sum up, before they are brought to mean 0 and variance 1 over scenes."""
        n = len(images)
        grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        right = (grey[:, 0, 1:-1, 2:] - grey[:, 0, 1:-1, :-2]) / 2
        below = (grey[:, 0, 2:, 1:-1] - grey[:, 0, :-2, 1:-1]) / 2
        energy = torch.stack([right**2, right * below, below**2], dim=1)  # of any orientation
        cos, sin = self.angle.cos(), self.angle.sin()
        turn = torch.stack([cos**2, 2 * cos * sin, sin**2], dim=1)
        local = torch.einsum("bkyx,vyx,vk->bv", energy, self.early_field, turn)
        early = (local.clamp(min=0) + 1e-6).sqrt()
        seen = torch.einsum("bcyx,vyx,vc->bv", images, self.colour_field, self.tint)
        inner = F.relu(F.conv2d(images - images.mean((2, 3), keepdim=True), self.first, stride=2))
        inner = F.relu(F.conv2d(inner, self.second, stride=2)).flatten(2)
        pooled = torch.cat([inner.mean(2), inner.amax(2)], dim=1)
        what = pooled @ self.weight.T
        silent = images.new_zeros(
            n, self.n_channels - early.shape[1] - seen.shape[1] - what.shape[1]
        )
        return torch.cat([early, seen, what, silent], dim=1)

    def respond(
        self, stimulus: Tensor, *, subject: Tensor | None = None
    ) -> Float[Tensor, "batch voxel"]:
        """Responses without noise; z over scenes."""
        return (self.answer(stimulus) - self.level) / self.spread

    def measure(
        self, images: Float[Tensor, "stimulus 3 height width"], *, repeats: int = 1, seed: int = 0
    ) -> Float[np.ndarray, "stimulus voxel"]:
        """Measured responses, the mean of some repeats."""
        rng = np.random.default_rng([self.seed, seed])
        with torch.no_grad():
            clean = torch.cat([self.respond(part) for part in images.split(256)]).numpy()
        noise = rng.standard_normal(clean.shape) * self.noise / math.sqrt(repeats)
        return (clean + noise).astype(np.float32)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def encode_words(captions: tuple[str, ...] | list[str]) -> Int[Tensor, "stimulus word"]:
    """Indices into `WORDS`; captions have up to seven words.

    Raises:
        ValueError: A word that no scene's caption has.
    """
    rows = torch.zeros(len(captions), 7, dtype=torch.long)
    for row, caption in zip(rows, captions, strict=True):
        for i, word in enumerate(caption.split()[:7]):
            if word not in WORDS:
                raise ValueError(f"caption {caption!r}: word {word!r} is none of {WORDS[1:]}.")
            row[i] = WORDS.index(word)
    return rows
