"""What an accelerator needs: no questions to the host, one graph for a compiler, and bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from benchmarks.brainomni import Sides
from test_contracts import OWN, sample
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from neurofm import cards
from neurofm.batch import BrainModel
from neurofm.models import PatchTransformer
from neurofm.models.patch_transformer_layers import layout
from neurofm.tokenizers import PatchTokenizer

SMALL = {
    "window_length": 64,
    "n_filters": 8,
    "ratios": (4, 2, 2),
    "n_dim": 32,
    "n_head": 2,
    "n_neuro": 4,
    "codebook_dim": 32,
    "codebook_size": 16,
    "num_quantizers": 2,
}
# Each makes the host wait for a number, or a shape, that only the device knows.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")


class Waits(TorchDispatchMode):
    """Collects operations after which a GPU's host would wait, and copies to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        chooses = name in ("index", "index_put", "index_put_", "_index_put_impl_")
        by_mask = chooses and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in WAITS or name.startswith("_unique") or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def waits(run: Callable[[], object]) -> list[str]:
    with Waits() as mode:
        run()
    return mode.found


@pytest.fixture
def sides() -> Sides:
    language = {"lm_dim": 32, "lm_head": 4, "lm_depth": 2}
    made = Sides(batch=2, channels=5, samples=160, size=SMALL, language=language)
    made.encode()  # codebooks look once whether they have started
    made.our_loss("stage1", None)
    return made


@pytest.mark.parametrize(
    "run",
    [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.any()), lambda x: x.nonzero()],
)
def test_waiting_is_noticed(run: Callable[[Tensor], object]) -> None:
    assert waits(lambda: run(torch.ones(3)))


@pytest.mark.parametrize("part", ["encode", "stage1", "stage2"])
def test_brainomni_steps_never_wait_for_the_device(sides: Sides, part: str) -> None:
    # AdamW is left out: it keeps its count of steps on the host and reads it there.
    if part == "encode":
        assert waits(sides.encode) == []
    else:
        draws = None if part == "stage1" else sides.draws(part)
        assert waits(lambda: sides.our_loss(part, draws).backward()) == []


@pytest.fixture
def compiler(request: pytest.FixtureRequest) -> Callable[..., Any]:
    if request.config.getoption("--jaxtyping-packages", default=None):
        pytest.skip("the shape hook wraps functions in checks that a compiler cannot follow")

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, backend="eager", fullgraph=True)

    return compile_


def test_brainomni_encodes_in_one_graph(sides: Sides, compiler: Callable[..., Any]) -> None:
    sides.ours.eval()
    expected = sides.encode()
    compiled = compiler(sides.encode)
    with torch._dynamo.config.patch(allow_rnn=True):  # the LSTM of the encoder
        torch.testing.assert_close(compiled(), expected)


@pytest.mark.parametrize("name", [name for name in OWN if name.endswith("_demo")])
def test_model_in_bfloat16_is_close_to_float32(name: str) -> None:
    card = cards.read("models", name)
    torch.manual_seed(0)
    made = cards.build({key: card[key] for key in ("class_path", "init_args")})
    model, batch = made.eval(), sample(2, card["expects"])
    with torch.no_grad():
        if not isinstance(model, BrainModel):
            model(batch)  # an untrained code book starts from the first batch
            with torch.autocast("cpu", torch.bfloat16):
                assert model(batch).values.isfinite().all()
            return
        if hasattr(model, "tokenize"):  # a code is this one or that one, and rounding may decide
            model.tokenize(batch)
            batch = replace(batch, tokens=model.tokenize(batch))
        exact = model.encode(batch).pooled()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model.encode(batch).pooled().float()
    assert rounded.isfinite().all()
    assert (rounded - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("part", ["stage1", "stage2"])
def test_brainomni_learns_in_bfloat16(sides: Sides, part: str) -> None:
    draws = sides.draws(part)
    module = sides.modules(part)[0]
    exact = float(sides.our_loss(part, draws).detach())
    with torch.autocast("cpu", torch.bfloat16):
        loss = sides.our_loss(part, draws)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    assert abs(float(loss.detach()) - exact) < 0.1 * exact


@pytest.mark.parametrize("attention", ["full", "criss_cross"])
def test_patch_transformer_relates_tokens_in_one_graph(
    attention: Any, compiler: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    model = PatchTransformer(PatchTokenizer(), dim=32, depth=2, heads=4, attention=attention)
    time = torch.arange(4.0).repeat(3).expand(2, -1)
    mask = torch.ones(2, 12, dtype=torch.bool)
    rows = 3 if attention == "criss_cross" else 1
    at = layout(time, mask, rows=rows, pairs=4, attention=attention, causal=False)

    def relate(x: Tensor) -> Tensor:
        for block in model.blocks:
            x = block(x, at)
        return model.norm(x)

    x = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        compiled = compiler(relate)
        torch.testing.assert_close(compiled(x), relate(x))
    assert waits(lambda: relate(x).sum().backward()) == []
