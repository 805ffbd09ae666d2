"""MVCNet, its views and its losses against tests/golden/mvcnet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.batch import Batch
from neurofm.data import Flip, ReflectChannels, ShiftFrequency
from neurofm.models import MVCNet
from neurofm.nn.contrast import between_networks, between_views
from neurofm.units import Kind

Tensors = dict[str, Tensor]
KEEPS_LAST_SAMPLE = "MI1-7"
# Channels that the original exchanges in each corpus, left ones and right ones in the same order.
PAIRS = {
    "BNCI2014001": ("1 2 6 7 8 13 14 18", "5 4 12 11 10 17 16 20"),
    "BNCI2014002": ("0 3 4 5 6 12", "2 11 10 9 8 14"),
    "BNCI2014004": ("0", "2"),
    "BNCI2015001": ("0 3 4 5 10", "2 9 8 7 12"),
    "Zhou2016": ("0 2 5 8 11", "1 4 7 10 13"),
    "MI1-7": (
        "0 2 3 4 9 10 11 16 17 18 19 24 25 26 27 33 34 35 36 41 42 43 48 49 50 55 57",
        "1 8 7 6 15 14 13 23 22 21 20 32 31 30 29 40 39 38 37 47 46 45 54 53 52 56 58",
    ),
}
PAIRS["Blankertz2007"] = PAIRS["MI1-7"]
FEET = ("BNCI2014002", "BNCI2015001")  # right hand against feet: labels stay
ASSUMED_HZ = 250.0


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As the recording says."""
    said = fixture.description["tolerance"]
    return said["float32_atol"], said["float32_rtol"]


def model_of(config: dict[str, Any], state: Tensors) -> MVCNet:
    made = MVCNet(
        n_channels=config["chn"],
        n_times=config["time_sample_num"],
        sfreq=float(config["sample_rate"]),
        patch=config["patch_size"],
        width=config["embed_dims"],
        n_classes=config["class_num"],
        drop_last_sample=config["data_name"] != KEEPS_LAST_SAMPLE,
        hidden=config["projector_dim1"],
    )
    made.load_state_dict(made.rename_keys(state))
    return made.eval()


def pairs_of(corpus: str) -> list[tuple[int, int]]:
    left, right = (map(int, side.split()) for side in PAIRS[corpus])
    return list(zip(left, right, strict=True))


def views_of(config: dict[str, Any]) -> dict[str, torch.nn.Module]:
    """The original's views: 250 Hz assumed, channels by their numbers."""
    name, n = config["data_name"], config["class_num"]
    hands = ["right_hand", "feet"] if name in FEET else ["left_hand", "right_hand"]
    classes = [*hands, "feet", "tongue"][:n]
    sign = -1.0 if config["augsettings"] == "neg" else 1.0
    known = {
        "flip": Flip(),
        "freq": ShiftFrequency(sign * float(config["freq_mode"]), sfreq=ASSUMED_HZ),
        "cr": ReflectChannels(classes, unpaired="keep", pairs=pairs_of(name)),
    }
    return {method: known[method] for method in config["augmethods"]}


def batch_of(x: Tensor, y: Tensor, sfreq: float) -> Batch:
    shape = x.shape[:2]
    return Batch(
        x=x,
        channel_mask=torch.ones(shape, dtype=torch.bool),
        kind=torch.full(shape, int(Kind.EEG)),
        position=torch.zeros(*shape, 3),
        orientation=torch.zeros(*shape, 3),
        has_position=torch.zeros(shape, dtype=torch.bool),
        sfreq=sfreq,
        onset=torch.zeros(len(x), dtype=torch.float64),
        subject=torch.zeros(len(x), dtype=torch.int64),
        recording=torch.zeros(len(x), dtype=torch.int64),
        y=y,
    )


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every tensor of the recording; the losses are summed as the original does."""
    config, recorded = fixture.config, fixture.tensors("fixture")
    state = {k.removeprefix("sd."): v for k, v in recorded.items() if k.startswith("sd.")}
    model = model_of(config, state)
    raw = batch_of(recorded["in.x"], recorded["in.y"], float(config["sample_rate"]))
    seen = {"raw": raw} | {name: view(raw) for name, view in views_of(config).items()}
    got: Tensors = {}
    features, projections, entropies = [], [], []
    rare = config.get("weight", 1.0) if config["class_num"] == 2 else 1.0
    weight = torch.tensor([1.0] * (config["class_num"] - 1) + [rare])
    for name, batch in seen.items():
        features.append(model.encode(batch).pooled())
        projections.append(model.project(batch))
        logits = model.logits(batch.x)
        torch.testing.assert_close(logits, model.head(features[-1]))
        entropies.append(F.cross_entropy(logits, batch.y, weight))
        got |= {
            f"aug.{name}.x": batch.x,
            f"aug.{name}.y": batch.y,
            f"out.{name}.features": features[-1],
            f"out.{name}.z": projections[-1],
            f"out.{name}.logits": logits,
            f"loss.ce_{name}": entropies[-1],
        }
    with torch.no_grad():
        got["act.raw.encoder_out"] = model.companion.attention(raw.x[..., : model.samples])
    how = {"temperature": fixture.description.get("temperature", 0.2)}
    views = between_views(features, projections, **how)
    got |= {f"loss.cvc_{name}": value for name, value in zip(list(seen)[1:], views, strict=True)}
    got["loss.cvc"] = views.mean()
    got["loss.cmc"] = between_networks(features, projections, **how)
    weights = [fixture.description.get(key, 0.1) for key in ("lambda1", "lambda2")]
    total = sum(entropies) + weights[0] * got["loss.cvc"] + weights[1] * got["loss.cmc"]
    got["loss.total"] = total
    total.backward()
    slopes = {name: p.grad for name, p in model.named_parameters()}
    for key in (key for key in recorded if key.startswith("grad.")):
        (own,) = model.rename_keys({key.removeprefix("grad."): torch.zeros(())})
        got[key] = slopes[own]
    wanted = {k: v for k, v in recorded.items() if not k.startswith(("sd.", "in."))}
    return wanted, {key: value.detach() for key, value in got.items()}
