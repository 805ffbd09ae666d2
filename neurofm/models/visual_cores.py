"""Cores: from a stimulus to feature maps, which readouts turn into responses.

A task-optimised core is a frozen network that learned something else, cut at one of its layers; a
response-optimised one learns from the responses themselves; a language core reads embeddings of
captions. All give `batch dim height width`.

Source: Visual-Stream-Modeling (arXiv 2410.14031); its response-optimised core is equivariant to
rotations, this one has plain convolutions of the same sizes. Networks of the transformers library
are in `vision_networks.py`, fixed filters in `gabor_core.py`.
Axes: batch rgb height width, 0 to 1; batch dim row column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.shapes import Float

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of red, green, blue
_KERNELS = ((5, 1), (5, 2), *[(3, 1)] * 6)  # kernel and padding of each layer
_POOLED = (2, 4, 6)  # layers after which maps are halved
_SIGMA = 0.66  # pixels, of the smoothing before


class _Reached(Exception):
    """The layer has answered: nothing behind it needs to be computed."""


def imagenet(module: nn.Module) -> None:
    """Give a module the buffers `mean` and `deviation`."""
    for name, values in zip(("mean", "deviation"), IMAGENET, strict=True):
        module.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)


def check_images(image: Tensor, name: str) -> None:
    """Stop at what is no image.

    Raises:
        ValueError: Other axes than batch, 3, height, width.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(
            f"{name}: stimuli of shape {list(image.shape)}, expected images, batch x 3 x height x "
            "width with red, green and blue from 0 to 1."
        )


@configured
class FrozenCore(nn.Module):
    """Any network, frozen and cut at one of its layers.

    Args:
        network: From images to anything. To be written to checkpoints it must be of a class
            decorated with `cards.configured`.
        site: Name of the layer, as in `network.named_modules()`.
        normalize: Bring images to ImageNet's mean and deviation first.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, site: str, *, normalize: bool = True) -> None:
        super().__init__()
        if site not in dict(network.named_modules()):
            known = [name for name, _ in network.named_modules() if name]
            raise ValueError(
                f"FrozenCore: {type(network).__name__} has no layer {site!r}. Its layers: "
                f"{', '.join(known[:20])}{' ...' if len(known) > 20 else ''}."
            )
        self.network = network.requires_grad_(False)
        self.site, self.normalize = site, normalize
        imagenet(self)

    def train(self, mode: bool = True) -> FrozenCore:
        """A frozen network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "batch rgb height width"]) -> Tensor:
        """Output of the layer: maps, or vectors as maps of one place."""
        check_images(image, "FrozenCore")
        if self.normalize:
            image = (image - self.mean) / self.deviation
        found = output_of(self.network, self.network.get_submodule(self.site), image)
        if found.ndim == 2:
            return found[..., None, None]
        if found.ndim != 4:
            raise ValueError(
                f"FrozenCore: the layer {self.site!r} gives {list(found.shape)}, expected maps "
                "(batch, dim, height, width) or vectors. Tokens of a transformer: VisionGrid."
            )
        return found


def output_of(network: nn.Module, layer: nn.Module, image: Tensor) -> Tensor:
    """What one layer gives for an image; nothing behind it is computed."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, given: Any, found: Any) -> None:
        kept.append(found[0] if isinstance(found, tuple) else found)
        raise _Reached

    handle = layer.register_forward_hook(keep)
    try:
        network(image)
    except _Reached:
        return kept[0]
    finally:
        handle.remove()
    raise ValueError(
        f"{type(network).__name__}: the layer was not used by the network's forward pass."
    )


@configured
class ConvCore(nn.Module):
    """A response-optimised core: eight convolutions that learn from responses.

    Kernels 5, 5, 3 ...; batch norm and ReLU after each; maps are smoothed and halved after layers
    2, 4 and 6, and smoothed after 8.

    Args:
        width: Features of each layer; published 384 (48 fields of 8 orientations).
        n_layers: At most 8.
        in_features: 3 for images.
    """

    kernel: Tensor

    def __init__(self, *, width: int = 384, n_layers: int = 8, in_features: int = 3) -> None:
        super().__init__()
        if not 1 <= n_layers <= len(_KERNELS):
            raise ValueError(f"ConvCore: n_layers is {n_layers}, expected 1 to {len(_KERNELS)}.")
        self.dim = width
        layers = []
        for i, (kernel, padding) in enumerate(_KERNELS[:n_layers]):
            inputs = width if i else in_features
            convolution = nn.Conv2d(inputs, width, kernel, padding=padding, bias=False)
            layers.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
        self.layers = nn.ModuleList(layers)
        self.register_buffer("kernel", gaussian(_SIGMA), persistent=False)

    def forward(
        self, image: Float[Tensor, "batch rgb height width"]
    ) -> Float[Tensor, "batch dim row column"]:
        """Feature maps: 28 x 28 of an image of 224 x 224.

        Raises:
            ValueError: The image is too small.
        """
        x = image
        for i, layer in enumerate(self.layers, 1):
            if min(x.shape[2:]) < 5:
                raise ValueError(
                    f"ConvCore: of an image of {image.shape[2]} x {image.shape[3]}, layer {i} sees "
                    f"{x.shape[2]} x {x.shape[3]}. Use larger images or fewer layers."
                )
            x = layer(x)
            if i in _POOLED or i == len(_KERNELS):
                x = smooth(x, self.kernel, stride=2 if i in _POOLED else 1)
        return x


def gaussian(sigma: float) -> Float[Tensor, "row column"]:
    """A normalized Gaussian; its size is as in e2cnn."""
    reach = round(4 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1.0) / sigma).square())
    return torch.outer(line, line) / line.sum() ** 2


def smooth(
    x: Float[Tensor, "batch dim height width"], kernel: Float[Tensor, "size size"], *, stride: int
) -> Float[Tensor, "batch dim row column"]:
    """Each feature by itself through a kernel, then every `stride`-th place: no aliasing."""
    dim, reach = x.shape[1], kernel.shape[0] // 2
    weight = kernel.to(x.dtype).expand(dim, 1, -1, -1)
    return F.conv2d(x, weight, stride=stride, padding=reach, groups=dim)


@configured
class LanguageCore(nn.Module):
    """Embeddings of captions as feature maps.

    One embedding per image (of several captions the mean) is a map of one place. Dense captions,
    an embedding for every part of the image, go through two convolutions of 5 x 5, each with batch
    norm and ReLU, and are halved.

    Args:
        n_features: Of an embedding: 512 of CLIP, 768 of MPNet.
        dense: Stimuli are `batch dim row column`; else `batch dim`, or `batch caption dim`.
        width: Features of the convolutions; the source does not say how many.
    """

    kernel: Tensor

    def __init__(self, n_features: int = 512, *, dense: bool = False, width: int = 384) -> None:
        super().__init__()
        self.n_features = n_features
        self.dim = width if dense else n_features
        self.layers: nn.Sequential | None = None
        if dense:
            layers: list[nn.Module] = []
            for inputs in (n_features, width):
                convolution = nn.Conv2d(inputs, width, 5, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            self.layers = nn.Sequential(*layers)
            self.register_buffer("kernel", gaussian(_SIGMA), persistent=False)

    def forward(self, stimulus: Tensor) -> Float[Tensor, "batch dim row column"]:
        """Feature maps.

        Raises:
            ValueError: Embeddings of another size or with other axes.
        """
        axes = (4,) if self.layers is not None else (2, 3)
        place = 1 if stimulus.ndim == 4 else -1
        if stimulus.ndim not in axes or stimulus.shape[place] != self.n_features:
            wanted = "batch x features x rows x columns" if self.layers else "batch x features"
            raise ValueError(
                f"LanguageCore: stimuli of shape {list(stimulus.shape)}, expected {wanted} with "
                f"{self.n_features} features, an embedding of a caption."
            )
        if self.layers is None:
            mean = stimulus.mean(1) if stimulus.ndim == 3 else stimulus
            return mean[..., None, None]
        return smooth(self.layers(stimulus), self.kernel, stride=2)


def map_size(core: nn.Module, stimulus: Sequence[int]) -> tuple[int, int, int]:
    """Features, rows and columns that a core gives for a stimulus of a shape (without batch)."""
    was = core.training
    core.eval()
    with torch.no_grad():
        found = core(torch.zeros(1, *stimulus))
    core.train(was)
    return found.shape[1], found.shape[2], math.prod(found.shape[3:])
