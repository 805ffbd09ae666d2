"""Voxel tuning projected onto natural images: what a voxel likes, among real pictures.

The weight of a voxel in an encoder over image embeddings is a direction in which no real image may
lie. BrainSCUBA replaces it by a softmax-weighted mean of the embeddings of a bank of images, whose
direction and length are averaged apart: a captioner can read the result. The nearest images and the
nearest captions say the same without any weights.

Source: Luo et al. 2024 (BrainSCUBA, arXiv 2310.04420).
Axes: voxel; image = one of the bank; embedding = dimension of the image embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.shapes import Float, Int


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
