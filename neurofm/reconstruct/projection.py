"""Voxel tuning projected onto natural images: what a voxel likes, among real pictures.

The weight of a voxel in an encoder over image embeddings is a direction in which no real image may
lie. BrainSCUBA replaces it by a softmax-weighted mean of the embeddings of a bank of images, whose
direction and length are averaged apart: a captioner can read the result. The nearest images and the
nearest captions say the same without any weights.

Source: Luo et al. 2024 (BrainSCUBA, arXiv 2310.04420).
Axes: voxel; image = one of the bank; embedding = dimension of the image embedding.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.shapes import Bool, Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def project_onto_images(
    weights: Float[Tensor, "voxel embedding"],
    bank: Float[Tensor, "image embedding_"],
    *,
    temperature: float = 1 / 150,
    chunk: int = 256,
    block: int = 32_768,
) -> Float[Tensor, "voxel embedding"]:
    """Mean of the bank's embeddings, weighted by how well each agrees with a voxel, in closed form.

    Args:
        weights: Of a linear encoder; only their direction counts.
        bank: Embeddings as the network gives them: their lengths are averaged too.
        temperature: Of the softmax over cosines; small = the nearest image alone.
        chunk: Voxels at once.
        block: Images at once: beside the bank, memory is 8 bytes x `block` x (`chunk` + embedding).

    Returns:
        Embeddings of about the length that the bank's have; float32, on the device of `weights`.

    Raises:
        ValueError: Another embedding, an empty bank, a temperature that is not positive, numbers
            that are not finite, or a voxel or an image of length zero, which has no direction.
    """
    _check(weights, bank, "project_onto_images")
    if not temperature > 0:
        raise ValueError(
            f"project_onto_images: temperature {temperature}, expected above 0. The published "
            "'150' multiplies the cosines: pass 1 / 150."
        )
    found = [_project(part, bank, temperature, block) for part in weights.split(chunk)]
    return torch.cat(found).float()


def _project(weights: Tensor, bank: Tensor, temperature: float, block: int) -> Tensor:
    """The softmax over all images, a block after the other: sums are scaled to the greatest score.

    float64, because the division by the temperature amplifies the rounding of the cosines.
    """
    wanted, _ = _directions(weights)
    highest = torch.full_like(wanted[:, :1], -torch.inf)
    direction, length, total = torch.zeros_like(wanted), 0 * wanted[:, :1], 0 * wanted[:, :1]
    for images in bank.split(block):
        directions, lengths = _directions(images)
        scores = wanted @ directions.T / temperature
        now = torch.maximum(highest, scores.amax(dim=1, keepdim=True))
        share, before = (scores - now).exp(), (highest - now).exp()
        direction = direction * before + share @ directions
        length = length * before + share @ lengths.unsqueeze(1)
        total = total * before + share.sum(dim=1, keepdim=True)
        highest = now
    return F.normalize(direction / total, dim=1) * (length / total)


def nearest_images(
    weights: Float[Tensor, "voxel embedding"],
    bank: Float[Tensor, "image embedding_"],
    *,
    k: int = 5,
    chunk: int = 256,
) -> tuple[Int[Tensor, "voxel rank"], Float[Tensor, "voxel rank"]]:
    """The `k` images of the bank that agree best with each voxel, the best first.

    Returns:
        Their rows in the bank and their cosines.

    Raises:
        ValueError: As `project_onto_images`, or fewer than `k` images.
    """
    _check(weights, bank, "nearest_images")
    if not 1 <= k <= len(bank):
        raise ValueError(f"nearest_images: k is {k}, the bank has {len(bank)} images.")
    wanted = F.normalize(weights.float(), dim=1)
    directions = F.normalize(bank.float(), dim=1)
    best = [torch.topk(part @ directions.T, k, dim=1) for part in wanted.split(chunk)]
    return torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])


def nearest_captions(
    weights: Float[Tensor, "voxel embedding"],
    bank: Float[Tensor, "image embedding_"],
    captions: Sequence[str],
    *,
    chunk: int = 256,
) -> list[str]:
    """One caption per voxel: that of the nearest embedding of the bank, without a language model.

    Args:
        weights: Of voxels, or what `project_onto_images` made of them.
        captions: One per row of the bank.

    Raises:
        ValueError: As `nearest_images`, or another number of captions than rows.
    """
    if len(captions) != len(bank):
        raise ValueError(
            f"nearest_captions: {len(captions)} captions for {len(bank)} embeddings; expected one "
            "each. Repeat an embedding that has several captions."
        )
    rows, _ = nearest_images(weights, bank, k=1, chunk=chunk)
    return [captions[row] for row in rows[:, 0].tolist()]


@dataclass(frozen=True)
class VoxelCaptions:
    """What voxels like, in words.

    Args:
        captions: One per voxel.
        embedding: Each voxel's tuning projected onto the images of the bank.
        cosine: Of that with the embedding the caption belongs to.
        usual: All captions of the bank, to tell what is special from what is common.
    """

    captions: tuple[str, ...]
    embedding: Float[Tensor, "voxel embedding"]
    cosine: Float[Tensor, " voxel"]
    usual: tuple[str, ...]

    def words(self, voxels: Bool[np.ndarray, " voxel"] | None = None) -> dict[str, float]:
        """Share of voxels with a word in their caption minus the bank's share, largest first.

        Args:
            voxels: Mask of a region; all if not given.
        """
        mask = np.ones(len(self.captions), bool) if voxels is None else np.asarray(voxels)
        if mask.shape != (len(self.captions),) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"VoxelCaptions: a mask of {mask.dtype} and shape {mask.shape} with "
                f"{int(mask.sum())} voxels for {len(self.captions)} captions."
            )
        own = _shares([c for c, inside in zip(self.captions, mask, strict=True) if inside])
        common = _shares(self.usual)
        excess = {word: share - common.get(word, 0.0) for word, share in own.items()}
        return dict(sorted(excess.items(), key=lambda item: -item[1]))

    def plot(
        self, regions: Mapping[str, Bool[np.ndarray, " voxel"]] | None = None, *, n: int = 4
    ) -> Figure:
        """The words that set regions apart from the bank.

        Args:
            regions: Mask of each; all voxels if not given.
            n: Words of each region.
        """
        from neurofm.figures import plot_matrix

        masks = regions or {"all voxels": np.ones(len(self.captions), bool)}
        found = {name: self.words(mask) for name, mask in masks.items()}
        columns = list(dict.fromkeys(word for one in found.values() for word in list(one)[:n]))
        # What no voxel of a region has there is less common than in the bank.
        common = _shares(self.usual)
        table = [[one.get(w, -common.get(w, 0.0)) for w in columns] for one in found.values()]
        return plot_matrix(
            100 * np.array(table),
            title=f"Words in captions of {len(self.captions)} voxels",
            unit="points above the image bank",
            rows=[f"{name} ({int(mask.sum())})" for name, mask in masks.items()],
            columns=columns,
            signed=True,
        )


def caption_voxels(
    weights: Float[Tensor, "voxel embedding"],
    bank: Float[Tensor, "image embedding_"],
    captions: Sequence[str],
    *,
    temperature: float = 1 / 150,
    chunk: int = 256,
) -> VoxelCaptions:
    """Project voxels onto the images of a bank, and caption each by the nearest of them.

    Args:
        weights: Of a linear encoder (`LinearVoxelEncoder.directions`).
        bank: Embeddings of images that were not used to fit it.
        captions: One per row of the bank.
    """
    made = project_onto_images(weights, bank, temperature=temperature, chunk=chunk)
    said = nearest_captions(made, bank, captions, chunk=chunk)
    _, cosine = nearest_images(made, bank, k=1, chunk=chunk)
    return VoxelCaptions(tuple(said), made, cosine[:, 0], tuple(captions))


def _shares(captions: Sequence[str]) -> dict[str, float]:
    """Word to the share of captions that hold it."""
    counts = Counter(
        word for caption in captions for word in set(re.findall(r"\w+", caption.lower()))
    )
    return {word: count / len(captions) for word, count in counts.items()}


def _directions(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors and lengths, float64."""
    exact = vectors.detach().double()
    lengths = exact.norm(dim=1)
    return exact / lengths.unsqueeze(1), lengths


def _check(weights: Tensor, bank: Tensor, where: str) -> None:
    if weights.shape[1] != bank.shape[1]:
        raise ValueError(
            f"{where}: weights over {weights.shape[1]} dimensions, a bank of {bank.shape[1]}. Both "
            "must come from one image network."
        )
    for name, rows in (("weights", weights), ("bank", bank)):
        if not len(rows):
            raise ValueError(f"{where}: {name} has no rows.")
        bad = ~torch.isfinite(rows).all(dim=1) | (rows.norm(dim=1) == 0)
        if bad.any():
            raise ValueError(
                f"{where}: {int(bad.sum())} of {len(rows)} rows of {name} are zero or not finite, "
                f"the first is {int(bad.nonzero()[0, 0])}. Leave them out: they have no direction."
            )
