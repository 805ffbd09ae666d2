"""LoRA, DoRA, IA3: what they learn, what they leave alone, and files of them."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from fits import changed, decode_data, fit, state
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from training_tasks import SFREQ, meg_gpt, mirepnet, patch_transformer

from neurofm.batch import Embedding
from neurofm.cards import configured
from neurofm.io import load_model, save_model
from neurofm.io.adapters import base_state
from neurofm.io.seen import Seen
from neurofm.models import BraindecodeModel, FunctionalNetwork, SPDNet
from neurofm.nn.functional_layers import FunctionalConv
from neurofm.nn.linear import Linear
from neurofm.tasks import (
    IA3,
    Decode,
    DoRA,
    LoRA,
    Modes,
    Probe,
    load_adapters,
    plain_model,
    save_adapters,
    trained_parameters,
)
from neurofm.tasks.adaptations.merging import adapted

pytestmark = [
    pytest.mark.skipif(find_spec("peft") is None, reason="needs the extra peft"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
]
KINDS = (LoRA, DoRA, IA3, Modes)


@configured
class Toy(nn.Module):
    """A packed projection, a linear map of ours, one with a parametrization, one read directly."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.dim = dim
        self.qkv = Linear(dim, 3 * dim)
        self.normed = weight_norm(nn.Linear(3 * dim, dim))
        self.read = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim)
        self.encoder = nn.TransformerEncoderLayer(dim, 2, 12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(dim, 3)

    def encode(self, batch: Any) -> Embedding:
        x = self.normed(self.qkv(batch.x.mean(1)[:, : self.dim]).relu())
        x = self.norm(nn.functional.linear(x, self.read.weight, self.read.bias))
        tokens = self.encoder(x.unsqueeze(1))
        return Embedding(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


def shaken(task: Decode) -> Decode:
    """Adapters as after a training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in task.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return task


def functional() -> FunctionalNetwork:
    layers = [FunctionalConv(6, 4, n_functions=3, resolution=5)]
    return FunctionalNetwork(layers, sfreq=SFREQ)


def eegnet() -> BraindecodeModel:
    return BraindecodeModel("EEGNet", n_channels=6, n_times=128, sfreq=SFREQ)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    from training_tasks import LABELLED, make_data

    data = make_data(tmp_path_factory.mktemp("data"), **LABELLED)
    data.setup()
    return data.windows.batch(range(4))


# Layers


CASES = [(make, kind) for make in (Toy, meg_gpt, mirepnet, patch_transformer) for kind in KINDS]
CASES += [(functional, LoRA), *((eegnet, kind) for kind in KINDS)]


@pytest.mark.parametrize(("make", "kind"), CASES)
def test_merged_weights_compute_the_same_and_frozen_ones_rest(make, kind, batch):
    torch.manual_seed(0)
    model = make()
    before = state(model)
    task = shaken(Decode(model, n_outputs=2, adapt=kind())).train()
    nn.functional.cross_entropy(task(batch), batch.y).backward()
    for name, parameter in task.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    with torch.no_grad():
        wanted = task.eval().model.encode(batch).pooled()
        found = plain_model_of(task, make).encode(batch).pooled()
    assert not torch.allclose(wanted, untouched(make, before).encode(batch).pooled(), rtol=1e-2)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))
    own = base_state(model.state_dict(), adapted(model)["adapters"])
    assert own.keys() == before.keys()
    assert all(torch.equal(own[name], before[name]) for name in before)


def untouched(make: Any, before: dict[str, torch.Tensor]) -> Any:
    model = make()
    model.load_state_dict(before)
    return model.eval()


def plain_model_of(task: Decode, make: Any) -> Any:
    if make is not Toy:
        return plain_model(task)
    model = Toy()
    found = adapted(task.model)
    model.load_state_dict(base_state(task.model.state_dict(), found["adapters"]) | found["merged"])
    return model.eval()


def test_targets_are_the_linear_maps_that_encode_uses():
    model = Toy()
    Decode(model, n_outputs=2, adapt=LoRA())
    on = {n.removesuffix(".base_layer") for n, _ in model.named_modules() if "base_layer" in n}
    on = {name.partition(".base_layer")[0] for name in on}
    assert on == {"qkv", "normed", "read", "encoder.linear1", "encoder.linear2"}


def test_patterns_choose_layers_and_near_ones_are_named():
    model = mirepnet()
    task = Decode(
        model, n_outputs=2, adapt=LoRA(rank=2, layers=["blocks.*.query", "blocks.*.value"])
    )
    # One block, encoder alone: two layers, two factors of rank 2 each.
    assert trained_parameters(task.model)[0] == 2 * 2 * (16 + 16)
    with pytest.raises(ValueError, match=r"LoRA: layers.*'\*querry' fits none.*query"):
        LoRA(layers=["*querry"]).prepare(mirepnet())
    with pytest.raises(ValueError, match=r"FunctionalNetwork has no layer it can adapt. Use LoRA"):
        DoRA().prepare(functional())
    with pytest.raises(ValueError, match=r"LoRA: SPDNet has no layer it can adapt. Use Partial,"):
        LoRA().prepare(SPDNet(n_channels=6, widths=[4]))
    with pytest.raises(ValueError, match="rank 0"):
        LoRA(rank=0)


def test_a_planted_change_of_low_rank_is_found():
    torch.manual_seed(0)
    model = nn.Sequential(Linear(12, 10), nn.Tanh(), nn.Linear(10, 4))
    target = nn.Sequential(Linear(12, 10), nn.Tanh(), nn.Linear(10, 4))
    target.load_state_dict(model.state_dict())
    change = 0.5 * torch.randn(10, 2) @ torch.randn(2, 12)
    with torch.no_grad():
        target[0].weight.add_(change)
    LoRA(rank=2, layers=["0"]).prepare(model)
    x = torch.randn(400, 12)
    wanted = target(x).detach()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=0.02)
    for step in range(800):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 800)
        optimizer.zero_grad()
        (model(x) - wanted).square().mean().backward()
        optimizer.step()
    found = model[0].get_delta_weight("default")
    assert float((found - change).norm() / change.norm()) < 0.02
    assert torch.linalg.matrix_rank(found.detach(), rtol=1e-4) == 2


# Training and files


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_leaves_frozen_weights_and_loads_as_a_plain_model(kind, small, model, tmp_path):
    before = state(model)
    task = Decode(model, n_outputs=2, adapt=kind(), lr=1e-2)
    keep = ModelCheckpoint(tmp_path, "best", save_top_k=1)
    data = decode_data(small)
    fit(task, data, tmp_path, keep)
    own = base_state(model.state_dict(), adapted(model)["adapters"])
    assert own.keys() == before.keys()
    assert all(torch.equal(own[name], before[name]) for name in before)
    again = decode_data(small).windows
    batch = (again or data.windows).batch(range(4))
    with torch.no_grad():
        wanted = task.eval().model.encode(batch).pooled()
        loaded = load_model(tmp_path / "best.ckpt")
        assert torch.allclose(loaded.encode(batch).pooled(), wanted, atol=1e-6)
        whole = Decode.load_from_checkpoint(tmp_path / "best.ckpt")
        assert torch.equal(whole(batch), task(batch))
    assert len(Seen.of(loaded)) == len(Seen.of(model)) > 0
    assert loaded.card["trained_on"]
    with pytest.raises(ValueError, match="has adapters"):
        save_model(model, tmp_path / "no.safetensors")
    saved = save_model(plain_model(task), tmp_path / "plain.safetensors")
    assert torch.allclose(load_model(saved).encode(batch).pooled(), wanted, atol=1e-6)


@pytest.mark.parametrize("kind", [DoRA, Modes])
def test_a_run_with_adapters_resumes_bit_by_bit_in_mid_epoch(kind, small, model, tmp_path):
    begin = state(model)

    def run(*callbacks: Callback, **changes: Any) -> tuple[Any, Decode]:
        base = small.model()
        base.load_state_dict(begin)
        torch.manual_seed(1)
        adapt = DoRA(dropout=0.1) if kind is DoRA else Modes()
        task = Decode(base, n_outputs=2, adapt=adapt, lr=3e-3)
        return fit(task, decode_data(small), tmp_path, *callbacks, max_epochs=2, **changes), task

    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    whole, task = run(keep)
    rest, again = run(ckpt_path=tmp_path / "step=4.ckpt")
    assert rest.losses == whole.losses[4:]
    assert changed(again, state(task)) == set()


def test_adapters_alone_are_small_and_belong_to_their_base(tmp_path, batch):
    torch.manual_seed(0)
    base = mirepnet()
    before = state(base)
    task = shaken(Decode(base, n_outputs=2, adapt=LoRA(rank=2, layers=["*.query"]))).eval()
    file = save_adapters(task, tmp_path / "adapters.safetensors")
    whole = save_model(plain_model(task), tmp_path / "whole.safetensors")
    assert file.stat().st_size < 0.3 * whole.stat().st_size
    same = mirepnet()
    same.load_state_dict(before)
    with torch.no_grad():
        assert torch.equal(load_adapters(file, same)(batch), task(batch))
    other = mirepnet()
    with pytest.raises(ValueError, match=r"these adapters belong to a .*MIRepNet whose weights"):
        load_adapters(file, other)
    with pytest.raises(ValueError, match="no file of adapters"):
        load_adapters(whole, other)
    with pytest.raises(ValueError, match="Probe puts no adapters"):
        save_adapters(Decode(mirepnet(), n_outputs=2, adapt=Probe()), file)


@pytest.mark.system
def test_a_checkpoint_with_adapters_loads_without_peft(small, model, tmp_path):
    task = Decode(model, n_outputs=2, adapt=IA3(), lr=1e-2)
    keep = ModelCheckpoint(tmp_path, "best", save_top_k=1)
    fit(task, decode_data(small), tmp_path, keep, limit_train_batches=1)
    code = (
        "import sys\nsys.modules['peft'] = None\nfrom neurofm import load_model\n"
        f"load_model({str(tmp_path / 'best.ckpt')!r})\n"
        "import neurofm.tasks\n"
        "try:\n    neurofm.tasks.LoRA().prepare(load_model("
        f"{str(tmp_path / 'best.ckpt')!r}))\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'neurofm[peft]'" in done.stdout, done.stderr
