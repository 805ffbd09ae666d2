"""Patching, first-order estimates, steering and ablation of a small transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurofm.interpret import causal

INPUTS = ["param.*", "clean", "corrupt", "caa_pos", "caa_neg", "subspace_direction"]


class Block(nn.Module):
    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.o = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.w1, self.w2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.ln1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.o(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return x + self.w2(self.act(self.w1(self.ln2(x))))


class Transformer(nn.Module):
    def __init__(self, given: dict[str, Tensor], heads: int) -> None:
        super().__init__()
        weights = {k.removeprefix("param."): v for k, v in given.items() if k[:6] == "param."}
        dim, n_in = weights["emb.weight"].shape
        depth = 1 + max(int(k.split(".")[1]) for k in weights if k.startswith("blocks."))
        self.emb, self.lnf = nn.Linear(n_in, dim), nn.LayerNorm(dim)
        self.blocks = nn.Sequential(
            *[Block(dim, len(weights[f"blocks.{k}.w1.weight"]), heads) for k in range(depth)]
        )
        self.head = nn.Linear(dim, len(weights["head.weight"]))
        self.double().load_state_dict(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lnf(self.blocks(self.emb(x))).mean(1))


def site(name: str) -> str:
    """Where a name of the file is: attn_out1, mlp_act0, resid2."""
    kind = name.rstrip("0123456789")
    k = int(name.removeprefix(kind))
    if kind == "resid":
        return "emb" if k == 0 else f"blocks.{k - 1}"
    return f"blocks.{k}." + {"attn_out": "o", "mlp_act": "act", "mlp_out": "w2"}[kind]


def transformer(given: dict[str, Tensor]) -> Transformer:
    """Weights do not say the number of heads: it is the one that gives the first layer's output."""
    dim, stored = len(given["param.emb.weight"]), given.get("act_clean.attn_out0")
    made = {n: Transformer(given, n) for n in range(1, dim + 1) if dim % n == 0}
    for model in made.values():
        if stored is None:
            break
        _, values = causal.values_at(model, given["clean"], ["blocks.0.o"])
        if torch.allclose(values["blocks.0.o"][0], stored):
            return model
    return made[2 if dim % 2 == 0 else 1]


def check(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Everything that is not an input."""
    model = transformer(given)
    clean, corrupt = given["clean"], given["corrupt"]
    metric = causal.logit_difference(0, 1)
    names = sorted(k.split(".")[1] for k in given if k.startswith("act_clean."))
    places = [site(name) for name in names]
    found: dict[str, Tensor] = {}
    for kind, x in {"clean": clean, "corrupt": corrupt}.items():
        found[f"logits_{kind}"], values = causal.values_at(model, x, places)
        found |= {f"act_{kind}.{n}": values[s][0] for n, s in zip(names, places, strict=True)}
    n = clean.shape[1]
    tokens = [token for place in places for token in causal.each(place, "token", n)]
    done = causal.activation_patching(model, clean, corrupt, tokens, metric=metric)
    found["metric_clean_corrupt"] = torch.tensor([done.clean[0], done.corrupt[0]])
    for k, name in enumerate(names):
        rows = slice(k * n, (k + 1) * n)
        found[f"patch_metric.{name}"] = torch.from_numpy(done.score[rows, 0])
        found[f"patch_normalized.{name}"] = torch.from_numpy(done.effect[rows, 0])
    for key, rule in {"attrpatch": "plain", "relp": "relevance"}.items():
        made = causal.attribution_patching(
            model,
            clean,
            corrupt,
            places,
            metric=metric,
            gradient=rule,
            per="token",
            check=0,
            at_least=0,
        )
        for name, place in zip(names, places, strict=True):
            found[f"{key}.{name}"] = torch.from_numpy(made.estimate[place][0])
    return found | interventions(given, model)


@torch.no_grad()
def interventions(given: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Steered, ablated and patched in a direction."""
    found: dict[str, Tensor] = {}
    clean, corrupt = given["clean"], given["corrupt"]
    positive, negative = given["caa_pos"], given["caa_neg"]

    def logits(x: Tensor, place: str, change: object) -> Tensor:
        with causal.patched(model, {place: change}):
            return model(x)

    # Names say which site: whatever follows the last underscore of the vector's name.
    for name in (k.removeprefix("caa_vector_") for k in given if k.startswith("caa_vector_")):
        place = site(name)
        vector = causal.contrast_vector(model, positive, negative, place)
        found[f"caa_vector_{name}"] = vector
        for key in (k for k in given if k.startswith("logits_steered_")):
            alpha = float(key.removeprefix("logits_steered_"))
            found[key] = logits(clean, place, causal.added(vector, alpha))
        found["logits_directional_ablation"] = logits(
            clean, place, causal.without_direction(vector)
        )
    for key in (k for k in given if k.startswith("mean_ablation_vector_")):
        name = key.removeprefix("mean_ablation_vector_")
        mean = causal.mean_value(model, negative, site(name))
        found[key] = mean
        found[f"logits_mean_ablation_{name}"] = logits(clean, site(name), causal.constant(mean))
    for key in (k for k in given if k.startswith("logits_subspace_patch_")):
        name = key.removeprefix("logits_subspace_patch_")
        _, values = causal.values_at(model, clean, [site(name)])
        change = causal.along(given["subspace_direction"])
        source = values[site(name)][0]
        found[key] = logits(corrupt, site(name), lambda v, _, a=source, f=change: f(v, a))
    return found
