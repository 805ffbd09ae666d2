"""The Semantic Spatial Transformer readout: masks and feature maps that move with the image.

A factorised readout whose masks are warped for every image, and in the affine mode the maps of
features too. What to warp by is read from a small map of the image (`Localiser`). Masks are kept at
or above zero in place in training mode, as published; in evaluation mode a clamped copy is used.

Source: Visual-Stream-Modeling (arXiv 2410.14031). Its restricted modes do not run there; here they
warp the masks alone. Which numbers they predict is defined here.
Axes: batch dim height width; channel = voxel; guide = feature of the small map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from neurofm.cards import configured
from neurofm.models.feature_map_readouts import EPSILON, check_map, map_shape, within
from neurofm.shapes import Float

HIDDEN = 32  # units between the small map and the warps
_IDENTITY = {
    "translation": (0.0, 0.0),
    "rotation": (0.0,),
    "scale": (1.0, 1.0),
    "shear": (0.0, 0.0),
}
_AFFINE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_UNUSED = ("gaussian_filter", "attention_filter")  # in the original's files, read by nothing


class Warps(nn.Sequential):
    """From a small map of the image to one affine map of the plane for each of `n` images in it.

    Args:
        n_features: Of the small map, all in a row.
        mode: "affine", or any of "translation", "rotation", "scale" and "shear" joined by "+". A
            rotation is in radians; shear comes before it and scale before that.
    """

    def __init__(self, n_features: int, n: int, mode: str = "affine") -> None:
        parts = mode.split("+")
        if mode != "affine" and (not set(parts) <= set(_IDENTITY) or len(set(parts)) != len(parts)):
            raise ValueError(
                f"Warps: mode {mode!r}, expected 'affine' or some of {', '.join(_IDENTITY)} joined "
                "by '+', such as 'translation+scale'."
            )
        self.parts = () if mode == "affine" else tuple(parts)
        start = _AFFINE if mode == "affine" else sum((_IDENTITY[p] for p in self.parts), ())
        last = nn.Linear(HIDDEN, len(start) * n)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor(start).repeat(n))
        super().__init__(nn.Linear(n_features, HIDDEN), nn.ReLU(), last)
        self.count = len(start)

    def forward(self, guide: Float[Tensor, "batch guide"]) -> Float[Tensor, "batch channel 2 3"]:
        """The upper rows of affine matrices, in coordinates from -1 to 1."""
        numbers = super().forward(guide).unflatten(1, (-1, self.count))
        if not self.parts:
            return numbers.unflatten(2, (2, 3))
        sizes = [len(_IDENTITY[part]) for part in self.parts]
        found = dict(zip(self.parts, numbers.split(sizes, 2), strict=True))
        zero, one = torch.zeros_like(numbers[..., 0]), torch.ones_like(numbers[..., 0])
        square = _matrix(one, zero, zero, one)
        if "scale" in found:
            square = _matrix(found["scale"][..., 0], zero, zero, found["scale"][..., 1])
        if "shear" in found:
            x, y = found["shear"].unbind(-1)
            square = _matrix(one, x, y, one) @ square
        if "rotation" in found:
            angle = found["rotation"][..., 0]
            square = _matrix(angle.cos(), -angle.sin(), angle.sin(), angle.cos()) @ square
        shift = found.get("translation", torch.stack([zero, zero], -1))
        return torch.cat([square, shift.unsqueeze(-1)], -1)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -2)


def warp(
    images: Float[Tensor, "batch image height width"], by: Float[Tensor, "batch image 2 3"]
) -> Float[Tensor, "batch image height width"]:
    """Each image by its own affine map: bilinear, zeros outside, -1 and 1 at the outer edges."""
    size = (by.shape[0] * by.shape[1], 1, *images.shape[2:])
    grid = F.affine_grid(by.flatten(0, 1), list(size), align_corners=False)
    flat = F.grid_sample(images.reshape(size), grid, align_corners=False)
    return flat.view(*by.shape[:2], *images.shape[2:])


@configured
class Localiser(nn.Module):
    """A small map of the image: a frozen network, then a 1 x 1 convolution that learns.

    Args:
        network: From images to feature maps, frozen; published: an ImageNet ResNet-50 up to its
            last stage, 2048 features of 7 x 7.
        dim: Features of that.
        width: Features of the small map.
    """

    def __init__(self, network: nn.Module, *, dim: int = 2048, width: int = 4) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.project = nn.Conv2d(dim, width, 1)

    def train(self, mode: bool = True) -> Localiser:
        """Training mode, but for the frozen network."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(
        self, image: Float[Tensor, "batch rgb height width"]
    ) -> Float[Tensor, "batch guide row column"]:
        """The small map."""
        with torch.no_grad():
            maps = self.network(image)
        return self.project(maps)


@configured
class SemanticReadout(nn.Module):
    """Semantic Spatial Transformer over one kind of feature map, or over maps of image and text.

    Args:
        in_shape: Features, rows and columns of the maps.
        guide_shape: Of the small map that says how to warp; published 4 x 7 x 7.
        mode: How masks are warped, see `Warps`; only "affine" warps features too.
        text_shape: Of a second kind of maps, with masks of its own that are warped alike.
        start: Standard deviation of masks and features in the beginning; masks count relative to
            their norm, so that steps much longer than it wipe them out.
        chunk: Channels warped at a time. In training, several chunks are computed again for their
            gradients instead of being kept: memory is that of one.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        n_channels: int,
        *,
        guide_shape: Sequence[int] = (4, 7, 7),
        mode: str = "affine",
        text_shape: Sequence[int] | None = None,
        start: float = 1e-3,
        chunk: int = 256,
    ) -> None:
        super().__init__()
        shapes = [in_shape] if text_shape is None else [in_shape, text_shape]
        self.in_shapes = [map_shape(shape, "SemanticReadout") for shape in shapes]
        self.guide_shape = map_shape(guide_shape, "SemanticReadout")
        if chunk < 1:
            raise ValueError(f"SemanticReadout: chunk is {chunk}, expected at least 1.")
        self.n_channels, self.chunk = n_channels, chunk
        n_guide = guide_shape[0] * guide_shape[1] * guide_shape[2]
        self.spatial = nn.ParameterList(
            [nn.Parameter(start * torch.randn(n_channels, *shape[1:])) for shape in self.in_shapes]
        )
        dims = [shape[0] for shape in self.in_shapes]
        self.features = nn.Parameter(start * torch.randn(n_channels, sum(dims)))
        self.bias = nn.Parameter(torch.zeros(n_channels))
        self.mask_warps = Warps(n_guide, n_channels, mode)
        self.map_warps = nn.ModuleList(
            [Warps(n_guide, dim) for dim in dims] if mode == "affine" else []
        )

    def masks(self) -> list[Float[Tensor, "channel height width"]]:
        """Where each channel looks before the warp, at or above 0 and of norm 1; of each kind."""
        found = [within(p, low=0.0, edit=self.training) for p in self.spatial]
        return [m / (m.flatten(1).norm(dim=1)[:, None, None] + EPSILON) for m in found]

    def warped_masks(
        self, guide: Float[Tensor, "batch guide row column"]
    ) -> list[Float[Tensor, "batch channel height width"]]:
        """Where each channel looks in each image, of each kind; all at once."""
        by = self.mask_warps(self._flat(guide))
        return [warp(mask.expand(len(by), *mask.shape), by) for mask in self.masks()]

    def _flat(self, guide: Tensor) -> Tensor:
        if tuple(guide.shape[1:]) != self.guide_shape:
            raise ValueError(
                f"SemanticReadout: the small map of the image is {list(guide.shape[1:])}, expected "
                f"{list(self.guide_shape)}. Images of another size? Build it with this guide_shape."
            )
        return guide.flatten(1)

    def forward(
        self,
        x: Float[Tensor, "batch dim height width"],
        guide: Float[Tensor, "batch guide row column"],
        text: Float[Tensor, "batch textdim row2 column2"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Responses.

        Args:
            guide: The small map that says how to warp.
            text: Maps of the second kind.
        """
        maps = [x] if text is None else [x, text]
        if len(maps) != len(self.in_shapes):
            raise ValueError(
                f"SemanticReadout: {len(maps)} kinds of feature maps, built for "
                f"{len(self.in_shapes)} (`text_shape`)."
            )
        for given, shape in zip(maps, self.in_shapes, strict=True):
            check_map(given, shape, "SemanticReadout")
        flat = self._flat(guide)
        by = self.mask_warps(flat)
        if len(self.map_warps):
            maps = [warp(m, w(flat)) for m, w in zip(maps, self.map_warps, strict=True)]
        masks = self.masks()
        starts = range(0, self.n_channels, self.chunk)
        again = len(starts) > 1 and torch.is_grad_enabled()
        parts = []
        for start in starts:
            chosen = slice(start, start + self.chunk)
            part = (by[:, chosen], self.features[chosen], *(m[chosen] for m in masks), *maps)
            found = checkpoint(_respond, *part, use_reentrant=False) if again else _respond(*part)
            parts.append(found)
        return torch.cat(parts, 1) + self.bias

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original readout as ours; what it never reads is left out."""
        new = {"spatial": "spatial.0", "fc_loc": "mask_warps", "fc_enc": "map_warps.0"}
        kept = {}
        for key, value in state_dict.items():
            first, dot, rest = key.partition(".")
            if first not in _UNUSED:
                kept[new.get(first, first) + dot + rest] = value
        return kept


def _respond(by: Tensor, features: Tensor, *masks_and_maps: Tensor) -> Tensor:
    """Warp some masks, look at the maps through them, weigh what is seen."""
    n = len(masks_and_maps) // 2
    seen = []
    for mask, maps in zip(masks_and_maps[:n], masks_and_maps[n:], strict=True):
        moved = warp(mask.expand(len(by), *mask.shape), by).flatten(2)
        seen.append(torch.matmul(moved, maps.flatten(2).transpose(1, 2)))  # batch channel dim
    return (torch.cat(seen, 2) * features).sum(2)
