"""Attributions of a network of two convolutions, the smooth mask and its area."""

from __future__ import annotations

import functools
import re

import torch.nn.functional as F
from torch import Tensor, nn

from neurofm.interpret import attribution
from neurofm.interpret.attribution.masks import area_penalty, fade, smooth_mask

INPUTS = ("param.*", "x", "baseline", "target", "mask_areas", "mask_params", "mask_s[it]*")


def _stride(tensors: dict[str, Tensor]) -> int:
    """Of conv2: what gives fc as many inputs as it has."""
    (_, _, first), (n_out, _, second) = (tensors[f"param.conv{i}.weight"].shape for i in (1, 2))
    span = tensors["x"].shape[-1] - first - second + 1
    wanted = tensors["param.fc.weight"].shape[1] // n_out - 1
    return 2 if span // 2 == wanted else next(s for s in range(1, 99) if span // s == wanted)


class Network(nn.Module):
    """conv1, relu, conv2 (strided), relu, flatten, fc."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        shape = {name: tensors[f"param.{name}.weight"].shape for name in ("conv1", "conv2", "fc")}
        self.conv1 = nn.Conv1d(shape["conv1"][1], shape["conv1"][0], shape["conv1"][2])
        self.conv2 = nn.Conv1d(
            shape["conv2"][1], shape["conv2"][0], shape["conv2"][2], stride=_stride(tensors)
        )
        self.fc = nn.Linear(shape["fc"][1], shape["fc"][0])
        self.double().load_state_dict(
            {key[6:]: value for key, value in tensors.items() if key.startswith("param.")}
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(1))


def check(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    model = Network(tensors).eval()
    x, target = tensors["x"], tensors["target"]
    ask = functools.partial(_ask, model, tensors)
    got = {
        "logits": model(x).detach(),
        "saliency_signed": attribution.saliency(model, x, target).values,
        "input_x_gradient": attribution.gradient_x_input(model, x, target).values,
    }
    cells, areas = tensors["mask_params"], tensors["mask_areas"]
    step, sigma = int(tensors["mask_step"]), float(tensors["mask_sigma"])
    masks = smooth_mask(cells, x.shape[-1], step=step, sigma=sigma)
    got["mask_values"], got["mask_area_penalty"] = masks, area_penalty(masks, areas)
    return got | {key: ask(key) for key in tensors if (key not in got) and ask(key) is not None}


def _ask(model: Network, tensors: dict[str, Tensor], key: str) -> Tensor | None:
    """A tensor whose name says how it is computed."""
    x, target, baseline = tensors["x"], tensors["target"], tensors["baseline"]
    if found := re.fullmatch(r"ig_(delta_)?(gausslegendre|midpoint|exact)(\d+)", key):
        nodes = "gauss-legendre" if found[2] == "gausslegendre" else "midpoint"
        result = attribution.integrated_gradients(
            model, x, target, baseline=baseline, steps=int(found[3]), nodes=nodes
        )
        return result.delta if found[1] else result.values
    if found := re.fullmatch(r"lrp_epsilon_(.+)", key):
        rules = attribution.Composite.epsilon(float(found[1]))
        return attribution.relevance(model, x, target, rules=rules, model=model).values
    if found := re.fullmatch(r"occlusion_ch(\d+)_win(\d+)_stride(\d+)", key):
        rows, length, stride = (int(n) for n in found.groups())
        return attribution.occlude(
            model, x, target, size=(rows, length), stride=(rows, stride), baseline=baseline
        ).values
    if found := re.fullmatch(r"gradcam_(\w+)_output", key):
        return attribution.grad_cam(
            model, x, target, model=model, site=found[1], stretch=False
        ).values[:, None]
    if found := re.fullmatch(r"fade_perturbed_x(\d+)", key):
        row = int(found[1])
        cells, step = tensors["mask_params"], int(tensors["mask_step"])
        mask = smooth_mask(cells[:1], x.shape[-1], step=step, sigma=float(tensors["mask_sigma"]))
        return fade(x[row : row + 1])(mask[:, None])[0]
    return None
