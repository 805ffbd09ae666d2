"""Pictures as a network was trained on them, by its `preprocessor_config.json`; no torchvision.

Resized with antialiasing (as PIL does, in floating point), cut in the middle, scaled by the mean
and standard deviation of the file.

Axes: stimulus, 3 height width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neurofm.shapes import Float
from neurofm.stimuli.pictures import as_pictures

FILE = "preprocessor_config.json"
_MODES = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # numbers of PIL; 1 is Lanczos


@dataclass(frozen=True)
class Preparation:
    """What is done to pictures before a network sees them.

    Args:
        size: Height and width to resize to; None leaves the size.
        shortest: The shorter side to resize to, keeping the proportions, in place of `size`.
        crop: Height and width of the middle that is kept, or None.
        mean: Of the channels, taken away.
        std: Of the channels, divided by.
        mode: Interpolation.
    """

    size: tuple[int, int] | None = None
    shortest: int | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    mode: str = "bicubic"

    def __call__(self, images: np.ndarray | Tensor) -> Float[Tensor, "stimulus 3 height width"]:
        """Pictures from 0 to 1, or of bytes, as the network wants them."""
        x = as_pictures(images)
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        height, width = int(x.shape[2]), int(x.shape[3])
        target = self.size
        if self.shortest is not None:
            short = min(height, width)
            target = (
                max(1, int(self.shortest * height / short)),
                max(1, int(self.shortest * width / short)),
            )
        if target is not None and target != (height, width):
            smooth = {} if self.mode == "nearest" else {"antialias": True, "align_corners": False}
            x = functional.interpolate(x, size=target, mode=self.mode, **smooth).clamp(0, 1)
        if self.crop is not None:
            x = _middle(x, *self.crop)
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (x - mean[:, None, None]) / std[:, None, None]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, where: str) -> Preparation:
        """From the contents of a `preprocessor_config.json`.

        Raises:
            ValueError: Something that this cannot do; it is named.
        """
        config = config.get("image_processor", config)
        resample = config.get("resample", 3)
        if resample not in (0, 1, 2, 3):
            raise ValueError(f"{where}: resample {resample!r}; expected 0 to 3, as PIL counts.")
        scale = float(config.get("rescale_factor", 1 / 255))
        if config.get("do_rescale", True) and abs(scale - 1 / 255) > 1e-6:
            raise ValueError(
                f"{where}: rescale_factor {scale:g}; expected 1/255. Prepare the pictures "
                "yourself and pass the network as a torch module."
            )
        normalize = config.get("do_normalize", True) and config.get("image_mean") is not None
        size = _size(config.get("size")) if config.get("do_resize", True) else {}
        crop = config.get("do_center_crop", config.get("crop_size") is not None)
        cut = _size(config.get("crop_size")) if crop else {}
        both = (size["height"], size["width"]) if "height" in size and "width" in size else None
        side = cut.get("shortest_edge", 0)
        square = (side, side) if side else None
        return cls(
            size=both,
            shortest=size.get("shortest_edge"),
            crop=(cut["height"], cut["width"]) if "height" in cut else square,
            mean=tuple(map(float, config["image_mean"])) if normalize else (0.0, 0.0, 0.0),
            std=tuple(map(float, config["image_std"])) if normalize else (1.0, 1.0, 1.0),
            mode=_MODES.get(resample, "bicubic"),
        )

    @classmethod
    def read(cls, folder: Path) -> Preparation:
        """From a model's folder.

        Raises:
            FileNotFoundError: It holds no `preprocessor_config.json`.
        """
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder}: no {FILE}, which says how pictures are prepared for this network. "
                "Download it with the weights, or pass `prepare`."
            )
        return cls.from_config(json.loads(path.read_text(encoding="utf-8")), where=str(path))


def _size(value: Any) -> dict[str, int]:
    if isinstance(value, int):
        return {"height": value, "width": value}
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"height": int(value[0]), "width": int(value[1])}
    return {str(k): int(v) for k, v in (value or {}).items() if v is not None}


def _middle(x: Tensor, height: int, width: int) -> Tensor:
    """The middle, padded with black where the picture is smaller."""
    low, left = max(0, height - x.shape[2]), max(0, width - x.shape[3])
    if low or left:
        x = functional.pad(x, (left // 2, left - left // 2, low // 2, low - low // 2))
    top, start = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, start : start + width]
