"""Frozen vision networks of the transformers library, from a folder, as cores.

Source: transformer brain encoder (arXiv 2505.17329) for queries of a vision transformer; its
default is DINOv2 ViT-B/14.
Axes: batch rgb height width, 0 to 1; batch dim row column.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.compat import guard_torchaudio, optional
from neurofm.models.visual_cores import check_images, imagenet, output_of
from neurofm.shapes import Float


@configured
class VisionGrid(nn.Module):
    """A grid of features from a frozen vision transformer of the transformers library.

    Images keep their size; they are padded at the right and the bottom to whole patches, with the
    mean colour, and the padding is not masked, as published. Without transformers installed, or
    without the folder, the error says how to get them.

    Args:
        path: Folder of a model, such as DINOv2: `config.json` and weights. Nothing is downloaded.
        block: Of which block; -1 is the last.
        features: "query": projections to queries, all heads in a row; "output": of the block.
        weights: Load them; False for random ones, which need `config.json` alone.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        path: str,
        *,
        block: int = -1,
        features: str = "query",
        weights: bool = True,
    ) -> None:
        super().__init__()
        if features not in ("query", "output"):
            raise ValueError(f"VisionGrid: features is {features!r}, expected 'query' or 'output'.")
        self.network = _transformer(path, weights=weights).requires_grad_(False)
        config = self.network.config
        self.patch, self.dim = int(config.patch_size), int(config.hidden_size)
        sites = _sites(self.network, features)
        if not -len(sites) <= block < len(sites):
            raise ValueError(
                f"VisionGrid: block is {block}, {path} has {len(sites)}: choose {-len(sites)} to "
                f"{len(sites) - 1}."
            )
        self.site = sites[block]
        imagenet(self)

    def train(self, mode: bool = True) -> VisionGrid:
        """A frozen network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def forward(
        self, image: Float[Tensor, "batch rgb height width"]
    ) -> Float[Tensor, "batch dim row column"]:
        """Features of each patch; class and register tokens are left out."""
        check_images(image, "VisionGrid")
        image = (image - self.mean) / self.deviation
        height, width = image.shape[2:]
        image = F.pad(image, (0, -width % self.patch, 0, -height % self.patch))
        rows, columns = (n // self.patch for n in image.shape[2:])
        layer = self.network.get_submodule(self.site)
        tokens = output_of(_Resized(self.network), layer, image)
        return tokens[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


@configured
class VisionMaps(nn.Module):
    """Feature maps of a frozen convolutional network of the transformers library, such as a ResNet.

    Args:
        path: Folder of a model: `config.json` and weights. Nothing is downloaded.
        stage: Whose output, from the stem (0) on; -1 is the last: 2048 x 7 x 7 of a ResNet-50 and
            images of 224.
        weights: Load them; False for random ones, which need `config.json` alone.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, path: str, *, stage: int = -1, weights: bool = True) -> None:
        super().__init__()
        self.network: Any = _transformer(path, weights=weights).requires_grad_(False)
        self.stage = stage
        imagenet(self)

    def train(self, mode: bool = True) -> VisionMaps:
        """A frozen network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def forward(
        self, image: Float[Tensor, "batch rgb height width"]
    ) -> Float[Tensor, "batch dim row column"]:
        """Feature maps of the stage."""
        check_images(image, "VisionMaps")
        image = (image - self.mean) / self.deviation
        return self.network(pixel_values=image, output_hidden_states=True).hidden_states[self.stage]


class _Resized(nn.Module):
    """Calls a network so that it takes images of another size than it was trained on."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, image: Tensor) -> Any:
        size = self.network.config.image_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        more = {} if tuple(image.shape[2:]) == size else {"interpolate_pos_encoding": True}
        try:
            return self.network(pixel_values=image, **more)
        except TypeError:  # DINOv2 takes any size by itself
            return self.network(pixel_values=image)


def _transformer(path: str, *, weights: bool) -> Any:
    folder = Path(path)
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"VisionGrid: {file} is missing; expected the folder of a vision network. Get one "
            f"once with `hf download facebook/dinov2-base --local-dir {folder}` and name that "
            "folder."
        )
    if weights and not any((*folder.glob("*.safetensors"), *folder.glob("*.bin"))):
        raise FileNotFoundError(
            f"VisionGrid: {folder} has a config.json but no weights (model.safetensors). Download "
            "the whole folder, or set `weights: false` for random ones."
        )
    guard_torchaudio()
    transformers = optional("transformers")
    config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    config = getattr(config, "vision_config", config)
    if not weights:
        network = transformers.AutoModel.from_config(config)
    else:
        network = transformers.AutoModel.from_pretrained(
            str(folder), config=config, local_files_only=True
        )
    return network.eval()


def _sites(network: nn.Module, features: str) -> list[str]:
    """Names of the layers, one per block, in order."""
    names = [name for name, _ in network.named_modules()]
    ending = r"(q_proj|\.query)$" if features == "query" else r"(layers?|blocks)\.\d+$"
    found = [name for name in names if re.search(ending, name)]
    if not found:
        raise ValueError(
            f"VisionGrid: {type(network).__name__} has no layers called *.q_proj or *.query. "
            "Expected a vision transformer."
        )
    return found
