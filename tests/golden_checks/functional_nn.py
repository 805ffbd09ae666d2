"""Functional layers against tests/golden/functional_nn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neurofm.models import FunctionalNetwork
from neurofm.nn import FunctionalConv, FunctionalDense, sample_basis

Tensors = dict[str, Tensor]


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As the fixture says."""
    allowed = fixture.description["tolerance"]
    return allowed["float32_atol"], allowed["float32_rtol"]


def layers_of(
    described: dict[str, Any], n_in: int
) -> tuple[list[FunctionalConv], list[FunctionalDense]]:
    """The recorded layers; what a description leaves out is the original's default."""
    convolutions, dense = [], []
    for layer in described.get("convolution_layers", []):
        basis = layer["basis_options"]
        convolutions.append(
            FunctionalConv(
                *(n_in, layer["n_filters"]),
                n_functions=basis["n_functions"],
                resolution=basis["resolution"],
                basis=basis["basis_type"].lower(),
                padding=layer.get("padding", "valid").lower(),
                pooling=layer.get("pooling", False),
                activation=layer.get("activation") or "linear",
            )
        )
        n_in = layer["n_filters"]
    for layer in described.get("dense_layers", []):
        basis = layer["basis_options"]
        dense.append(
            FunctionalDense(
                *(n_in, layer["n_neurons"]),
                n_functions=basis["n_functions"],
                basis=basis["basis_type"].lower(),
                resolution=basis.get("resolution"),
                pooling=layer.get("pooling", False),
                activation=layer.get("activation") or "linear",
            )
        )
        n_in = layer["n_neurons"]
    return convolutions, dense


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every tensor of the folder but input and coefficients, by name."""
    given = fixture.tensors("fixture")
    x = given["in.x"].transpose(1, 2)
    convolutions, dense = layers_of(fixture.description, x.shape[1])
    layers = [*convolutions, *dense]
    pooled_dense = bool(dense) and dense[-1].pooling and len(layers) > 1
    head = dense[-1] if pooled_dense else None
    model = FunctionalNetwork(layers[:-1] if pooled_dense else layers, head=head).eval()
    state = {k.removeprefix("sd."): v for k, v in given.items() if k.startswith("sd.")}
    renamed = FunctionalNetwork.rename_keys(state)
    if not pooled_dense and "head.coefficients" in renamed:
        renamed[f"layers.{len(layers) - 1}.coefficients"] = renamed.pop("head.coefficients")
    model.load_state_dict(renamed)
    names = [f"conv{i}" for i in range(len(convolutions))]
    names += [f"dense{i}" for i in range(len(dense))]
    got = {}
    with torch.no_grad():
        y = model.normalized(x)
        got["act.normalised"] = y.transpose(1, 2)
        for name, layer in zip(names, layers, strict=True):
            moments = layer.resolution or y.shape[-1]
            got[f"buf.{name}.basis"] = sample_basis(layer.basis, moments, layer.n_functions)
            y = layer(y)
            got[f"act.{name}"] = y.transpose(1, 2) if y.ndim == 3 else y
        got["out"] = got[f"act.{names[-1]}"]
        if head is not None:
            whole = head(model.curves(x))
            torch.testing.assert_close(whole, got["out"])
    expected = {k: v for k, v in given.items() if not k.startswith(("sd.", "in."))}
    return expected, got
