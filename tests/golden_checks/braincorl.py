"""BraInCoRL, its ridge baseline and its scores against tests/golden/braincorl."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.linear import in_context_ridge
from neurofm.metrics import explained_variance, r2_score
from neurofm.models import BraInCoRL, predict_each

Tensors = dict[str, Tensor]


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As recorded."""
    said = fixture.description["tolerance"]
    return said["atol"], said["rtol"]


def model_of(fixture: Any) -> BraInCoRL:
    config = fixture.config
    model = BraInCoRL(
        config["embed_dim"],
        dim=config["internal_emb_dim"],
        depth=config["num_tsfm_layers"],
        hidden=config["tsfm_hidden_dim"],
        heads=config["num_heads"],
        n_registers=config["num_reg_tok"],
        early_depth=config["num_early_lyr"],
        early_hidden=config["early_hidden_dim"],
        dropout=0,
    )
    model.load_state_dict(model.rename_keys(fixture.tensors("state_dict")))
    return model.eval()


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    inputs, expected = fixture.tensors("inputs"), fixture.tensors("outputs")
    model, got = model_of(fixture), {}
    for name, size in fixture.description["context_sizes"].items():
        given = inputs["ctx_img"][:, :size], inputs["ctx_resp"][:, :size]
        with torch.no_grad():
            found = _forward(model, *given, query=inputs["query_img"])
        got |= {f"{name}.{key}": value for key, value in found.items()}
    size = max(fixture.description["context_sizes"].values())
    got |= _gradients(model, inputs, size, list(fixture.tensors("state_dict")))
    return expected, got | _baseline(fixture, inputs) | _scores(inputs)


def _forward(model: BraInCoRL, stimulus: Tensor, response: Tensor, *, query: Tensor) -> Tensors:
    x, scale, mask = model.start(stimulus, response)
    got = {"early": x[:, model.n_registers :]}
    for i, block in enumerate(model.blocks):
        got[f"attn{i}"] = block.attention.weights(block.norm_1(x), scale, mask)
        x = got[f"block{i}"] = block(x, scale, mask)
    weights = got["weights"] = model(stimulus, response)
    return got | {"pred": predict_each(weights, query)}


def _gradients(model: BraInCoRL, inputs: Tensors, size: int, theirs: list[str]) -> Tensors:
    model.train()
    weights = model(inputs["ctx_img"][:, :size], inputs["ctx_resp"][:, :size])
    loss = F.mse_loss(predict_each(weights, inputs["query_img"]), inputs["query_resp"])
    loss.backward()
    ours = {key: p.grad for key, p in model.named_parameters()}
    renamed = {key: next(iter(model.rename_keys({key: torch.empty(0)}))) for key in theirs}
    return {"loss_pmse": loss.detach()} | {f"grad.{key}": ours[renamed[key]] for key in theirs}


def _baseline(fixture: Any, inputs: Tensors) -> Tensors:
    config = fixture.config
    found = in_context_ridge(
        inputs["ridge.X"].numpy(),
        inputs["ridge.Y"].T.numpy(),
        penalties=config["ridge_lambdas"],
        folds=config["ridge_folds"],
    )
    return {"ridge.weights": torch.from_numpy(found.weights)}


def _scores(inputs: Tensors) -> Tensors:
    pair = inputs["metric.target"].T.numpy(), inputs["metric.pred"].T.numpy()
    explained = torch.from_numpy(explained_variance(*pair))
    return {
        "metric.explained_variance_biased": explained,
        "metric.explained_variance_unbiased": explained,  # the same count above and below
        "metric.r2": torch.from_numpy(r2_score(*pair)),
    }
