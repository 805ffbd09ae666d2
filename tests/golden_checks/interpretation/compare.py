"""Similarities of RDMs; names of outputs say the RDMs, the method and the covariance."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from neurofm.interpret import rsa
from neurofm.interpret.rsa.pairs import n_conditions

Tensors = dict[str, Tensor]
INPUTS = ("rdms_*", "nan_positions", "sigma_k_*")
NAME = re.compile(r"sim_(?:(ties|nan)_)?([a-z_-]+?)(?:_sigma(\dd))?$")


def check(tensors: Tensors) -> Tensors:
    got: Tensors = {}
    for name in tensors:
        parsed = NAME.match(name)
        if parsed is None:
            continue
        which, method, sigma = parsed.groups()
        suffix = "_ties" if which == "ties" else ""
        a, b = tensors[f"rdms{suffix}_a"], tensors[f"rdms{suffix}_b"]
        if which == "nan":
            a = a.clone()
            a[0, tensors["nan_positions"]] = torch.nan
        covariance = tensors[f"sigma_k_{sigma}"] if sigma else None
        got[name] = rsa.compare(a, b, method, sigma_k=covariance)
    if "covariance_V_identity" in tensors:
        n = n_conditions(tensors["rdms_a"].shape[1])
        got["covariance_V_identity"] = torch.from_numpy(rsa.rdm_covariance(n))
    return got
