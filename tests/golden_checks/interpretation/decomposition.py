"""Sparse autoencoders, their errors, transcoder, semi-NMF and one layer's interaction basis."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from neurofm.interpret import decomposition as d

INPUTS = ["W_*", "b_*", "x", "k", "grad", "dead_mask", "gsae_beta", "darkmatter_x"]
INPUTS += ["darkmatter_error", "transcoder_W_*", "transcoder_b_*", "snmf_A", "snmf_G0"]
INPUTS += ["lib_X", "lib_W"]


def autoencoder(given: dict[str, Tensor], **options: object) -> d.SparseAutoencoder:
    """With the weights of the file."""
    dim, n_latents = given["W_enc"].shape
    made = d.SparseAutoencoder(dim, n_latents, k=int(given["k"]), **options).double()
    names = {
        "encoder": "W_enc",
        "encoder_bias": "b_enc",
        "decoder": "W_dec",
        "decoder_bias": "b_dec",
    }
    made.load_state_dict({key: given[name] for key, name in names.items()}, strict=False)
    return made


@torch.no_grad()
def check(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Everything that is not an input."""
    return sparse(given) | errors(given) | transcoder(given) | semi_nmf(given) | basis(given)


def sparse(given: dict[str, Tensor]) -> dict[str, Tensor]:
    x, k, norms = given["x"], int(given["k"]), given["W_dec"].norm(dim=1)
    net = autoencoder(given)
    pre = net.pre_activations(x)
    weight = d.influence(given["grad"], given["W_dec"])
    beta = float(given["gsae_beta"])
    codes = {
        "topk": net.encode(x),
        "topk_rescaled": autoencoder(given, rescale=True).encode(x),
        "batchtopk": autoencoder(given, select="batch_topk").train().encode(x),
        "gsae_beta": autoencoder(given, select="gradient", beta=beta).encode(
            x, gradient=given["grad"]
        ),
        "gsae_pure": autoencoder(given, select="gradient", beta=None).encode(
            x, gradient=given["grad"]
        ),
        "topafa": autoencoder(given, select="top_afa").encode(x),
    }
    found = {"pre_acts": pre, "gsae_influence": weight}
    for name, latents in codes.items():
        method, _, variant = name.partition("_")
        tail = f"_{variant}" if method == "gsae" else ""
        head = method if method == "gsae" else name
        found[f"{head}_acts{tail}"] = latents
        found[f"{head}_recon{tail}"] = net.decode(latents)
    # Stored before the division by the norms.
    found["topk_rescaled_acts"] = codes["topk_rescaled"] * norms
    length = (x - given["b_dec"]).norm(dim=1)
    found["topafa_k"] = d.top_afa(pre, norms, length)[1]
    found["fvu"] = d.unexplained(x, net(x))[None]
    found["l0"] = d.l0(codes["topk"])[None]
    found["dead_fraction_batch"] = d.dead_fraction(codes["topk"])[None]
    dead = given["dead_mask"]
    recon, total, mean = d.auxiliary(pre, dead, x - net(x), given["W_dec"])
    n_dead = int(dead.sum())
    found["aux_k"] = torch.tensor([min(x.shape[1] // 2, n_dead)])
    assert k >= 1
    return found | {"aux_recon": recon, "aux_mse_sum": total[None], "aux_mse_mean": mean[None]}


def errors(given: dict[str, Tensor]) -> dict[str, Tensor]:
    x, error = given["darkmatter_x"], given["darkmatter_error"]
    linear, rest = d.linear_error(x, error)
    size = error.square().sum(1, keepdim=True)
    return {
        "darkmatter_linear": linear,
        "darkmatter_nonlinear": rest,
        "darkmatter_r2_vector": d.explained(linear, error)[None],
        "darkmatter_r2_normsq": d.explained(d.linear_error(x, size)[0], size)[None],
    }


def transcoder(given: dict[str, Tensor]) -> dict[str, Tensor]:
    decoder = given["transcoder_W_dec"]
    dim, n_latents = given["W_enc"].shape
    net = d.Transcoder(dim, n_latents, out=decoder.shape[1]).double()
    weights = {"encoder": given["W_enc"], "encoder_bias": given["b_enc"]}
    weights |= {"decoder": decoder, "decoder_bias": given["transcoder_b_dec"]}
    net.load_state_dict(weights)
    return {"transcoder_acts": net.encode(given["x"]), "transcoder_out": net(given["x"])}


def semi_nmf(given: dict[str, Tensor]) -> dict[str, Tensor]:
    a, start = given["snmf_A"].numpy(), given["snmf_G0"].numpy()
    options = {"sparsity": None, "unit_weights": False, "start": start, "patience": 10**6}
    found: dict[str, Tensor] = {}
    for key, value in given.items():
        numbered = re.fullmatch(r"snmf_F_iter(\d+)", key)
        n_iter = int(numbered[1]) if numbered else len(value) if key == "snmf_loss" else 0
        if not n_iter:
            continue
        fit = d.semi_nmf(a, start.shape[1], n_iter=n_iter, **options)
        if numbered:
            found[key] = torch.from_numpy(fit.features)
            found[f"snmf_G_iter{n_iter}"] = torch.from_numpy(fit.weights)
        else:
            found[key] = torch.from_numpy(fit.loss)
    return found


def basis(given: dict[str, Tensor]) -> dict[str, Tensor]:
    # The next layer is tanh(x W), the last one, in its principal directions.
    x, weight = given["lib_X"], given["lib_W"]
    after = torch.tanh(x @ weight)
    jacobians = (1 - after.square())[:, :, None] * weight.T
    moment = d.jacobian_moment(jacobians, d.pca_basis(after).into)
    found = d.interaction_basis(x, moment)
    return {
        "lib_gram_eigenvalues": found.gram_eigenvalues,
        "lib_M": _signed_as(found.moment, given["lib_M"]),
        "lib_lambda": found.eigenvalues,
        "lib_abs_CtC_X": (x @ found.into).abs(),
    }


def _signed_as(moment: Tensor, stored: Tensor) -> Tensor:
    """Its rows and columns belong to eigenvectors, whose signs are arbitrary."""
    if moment.shape != stored.shape:
        return moment
    leading = torch.linalg.eigh(moment * stored)[1][:, -1]
    sign = torch.where(leading < 0, -1.0, 1.0).to(moment)
    return moment * sign * sign[:, None]
