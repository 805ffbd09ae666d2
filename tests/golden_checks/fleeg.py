"""FLEEG's clients and the server's average against tests/golden/fleeg."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neurofm.models import FLEEG
from neurofm.tasks import federated_mean

Tensors = dict[str, Tensor]


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As the fixture says."""
    allowed = fixture.description["tolerance"]
    return allowed["float32_atol"], allowed["float32_rtol"]


def model_of(client: dict[str, Any], state: Tensors, *, private: int) -> FLEEG:
    """The recorded client; its weights are cut in evaluation too, as the original's."""
    first, later = client["localKernel"], client["globalKernel"]
    filters = [state[f"allButLastLayers.{key}.weight"].shape[0] for key in _CONVOLUTIONS]
    made = FLEEG(
        client["nChan"],
        client["nTime"],
        n_classes=len(state["lastLayer.0.bias"]),
        filters=filters,
        kernels=[width for _, width in first],
        pools=[width for _, width in client["poolSize"]],
        shared_kernel=later[1],
        shared_pool=client["globalPool"][1],
        private=private,
        limit_in_evaluation=True,
    )
    made.load_state_dict(FLEEG.rename_keys(state))
    return made.eval()


_CONVOLUTIONS = ("0.0", "1.0.1", "1.1.1", "2.1")


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every tensor of the folder but inputs and weights, by name."""
    given = fixture.tensors("fixture")
    described, got = fixture.description, {}
    names: dict[str, str] = {}
    clients = []
    for i, client in enumerate(described["clients"]):
        prefix = f"client{i}.sd_before."
        state = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
        model = model_of(client, state, private=described["num_layers_keep_local"])
        assert model.n_moments == client["final_feature_width"]
        x = given[f"client{i}.in"].squeeze(1)
        with torch.no_grad():
            got[f"client{i}.log_probs"] = model.classify(model.features(x)).log_softmax(1)
        names = {key: next(iter(FLEEG.rename_keys({key: value}))) for key, value in state.items()}
        after = model.state_dict()
        for key, value in state.items():
            got[f"client{i}.sd_after_forward.{key}"] = after[names[key]].reshape(value.shape)
        clients.append(model)
    assert {names[key] for key in described["global_keys"]} == set(clients[0].shared_names())
    counts = [client["num_samples"] for client in described["clients"]]
    sent = [model.shared() for model in clients]
    for kind, weights in (("fedavg", counts), ("equal", [1] * len(sent))):
        mean = federated_mean(sent, weights)
        for key in described["global_keys"]:
            value = mean[names[key]]
            shape = (len(value), -1, *given[f"client0.sd_before.{key}"].shape[2:])
            got[f"{kind}.{key}[:4]"] = value.reshape(shape if value.ndim > 1 else -1)[:4]
    expected = {
        key: value
        for key, value in given.items()
        if ".sd_before." not in key and not key.endswith(".in")
    }
    return expected, got
