"""BrainOmni tiny at 64 channels x 10 s against a plain eager implementation of the paper.

    python -m tests.benchmarks brainomni [--device cuda] [--compile] [--batch 1] [--repeats 5]

Encode, the training step of stage 1 (BrainTokenizer) and of stage 2 (masked codes; with the frozen
tokenizer in the step, and with both sides given its tokens): forward, backward and AdamW, ours
fused as in our tasks, the plain one as PyTorch has it. Both sides run alternately in this process
with the same weights; outputs, losses and gradients are compared first, without
dropout. CPU time of the process, or events of the GPU. Rates count operations of convolutions,
linear maps, attention and LSTM as PyTorch dispatches them on the plain side. On a GPU ours runs in
bf16 autocast, and its waits for the device are counted. Memory: each side in a process of its own.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from neurofm.models import BrainOmni
from neurofm.objectives import masked_code_losses
from neurofm.tokenizers import BrainTokenizer

from .plain_brainomni import PlainBrainOmni, PlainTokenizer

PARTS = ("encode", "stage1", "stage2", "stage2_tokens")


@dataclass
class Sides:
    """The same weights on both sides, and one batch.

    Args:
        device: Where both run.
        size: Arguments of both tokenizers; the published size if empty.
    """

    device: str = "cpu"
    batch: int = 1
    channels: int = 64
    samples: int = 2560
    dropout: float = 0.1
    size: dict[str, Any] = field(default_factory=dict)
    language: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        tokenizer = BrainTokenizer(**self.size)
        for level in tokenizer.quantizer.levels:
            level.codebook.normal_(std=tokenizer.dim**-0.5)
            level.codebook_sum.copy_(20 * level.codebook)
            level.count.fill_(20)
            level.initialized.fill_(1)
        language = {"lm_dropout": self.dropout, **self.language}
        self.ours = BrainOmni(copy.deepcopy(tokenizer), **language).to(self.device)
        self.plain = PlainBrainOmni(PlainTokenizer(**self.size), **language).to(self.device)
        self.plain.load_state_dict(self.ours.state_dict())
        self.tokenizer = tokenizer.to(self.device).train()
        self.plain_tokenizer = PlainTokenizer(**self.size).to(self.device).train()
        self.plain_tokenizer.load_state_dict(tokenizer.state_dict())
        n, channels = self.batch, self.channels
        x, pos = torch.randn(n, channels, self.samples), torch.randn(n, channels, 6)
        kind = torch.zeros(n, channels, dtype=torch.long)
        self.data = [part.to(self.device) for part in (x, pos, kind)]

    def draws(self, part: str) -> tuple[Tensor, ...]:
        """What is hidden: of channels with noise on the others, or of tokens."""
        n, options = self.batch, {"device": self.device}
        if part == "stage1":
            windows = self.samples // self.tokenizer.window_length
            kept = self.channels - max(self.channels // 4, 1)
            noise = torch.randn(n, kept, windows, self.tokenizer.window_length, **options)
            return torch.randperm(self.channels, **options), noise
        shape = (n, self.tokenizer.n_sources, self.steps())
        order = torch.randperm(torch.Size(shape).numel(), **options)
        return torch.rand(shape, **options), torch.rand(shape, **options), order

    def _own_draws(self, part: str) -> tuple[Tensor, ...] | None:
        return None if part == "stage1" else self.draws(part)

    def steps(self) -> int:
        """Of the tokens of one recording."""
        windows = self.tokenizer.windows(torch.empty(1, 1, self.samples), self.ours.overlap_ratio)
        return windows.shape[2] * self.tokenizer.window_length // self.tokenizer.hop

    def our_loss(self, part: str, draws: tuple[Tensor, ...] | None) -> Tensor:
        """Of either stage; stage 1 draws by itself if nothing is given."""
        x, pos, kind = self.data
        if draws is None:
            return self.tokenizer.losses(x, pos, kind)["loss"]
        if part == "stage1":
            order, drawn = draws
            hidden = len(order) - drawn.shape[1]
            rank = order.argsort()
            keep = (rank >= hidden).expand(len(x), -1)
            noise = F.pad(drawn, (0, 0, 0, 0, hidden, 0))[:, rank]
            return self.tokenizer.losses(x, pos, kind, keep=keep, noise=noise)["loss"]
        values, codes = self.tokens() if part == "stage2" else self.given
        features, hidden = self.ours.hide(values, *draws)
        logits = self.ours.logits(features).flatten(1, 2)
        return masked_code_losses(logits, codes.flatten(1, 2), hidden.flatten(1))["loss"]

    @torch.no_grad()
    def tokens(self) -> tuple[Tensor, Tensor]:
        """Values and codes of the batch by our tokenizer."""
        x, pos, kind = self.data
        found = self.ours.tokenizer.tokenize(x, pos, kind, overlap=self.ours.overlap_ratio)
        return found.values, found.codes

    @cached_property
    def given(self) -> tuple[Tensor, Tensor]:
        """Tokens made once, as a cache or the store holds them."""
        return self.tokens()

    def plain_loss(self, part: str, draws: tuple[Tensor, ...]) -> Tensor:
        """Of either stage."""
        if part == "stage1":
            return self.plain_tokenizer.loss(*self.data, *draws)
        real = torch.ones_like(draws[0], dtype=torch.bool)
        if part == "stage2":
            return self.plain.loss(*self.data, draws, real)
        return self.plain.predict(*self.given, draws, real)

    def encode(self) -> Tensor:
        """Ours; the plain one has it as a method."""
        with torch.no_grad():
            x, pos, kind = self.data
            values = self.ours.tokenizer.tokenize(x, pos, kind, overlap=0.25).values
            return F.normalize(self.ours.embed(values, skip_last_block=True), dim=-1, eps=1e-6)

    def modules(self, part: str) -> tuple[nn.Module, nn.Module]:
        """Which ones train in a stage: ours and the plain one."""
        if part == "stage1":
            return self.tokenizer, self.plain_tokenizer
        return self.ours, self.plain

    def differences(self, part: str) -> dict[str, float]:
        """Largest difference of embeddings, or of the loss and (of its norm) of a gradient."""
        ours, plain = self.modules(part)
        if part == "encode":
            ours.eval(), plain.eval()
            return {"embedding": float((self.encode() - self.plain.encode(*self.data)).abs().max())}
        ours.train(), plain.train()
        draws = self.draws(part)
        losses = self.our_loss(part, draws), self.plain_loss(part, draws)
        sides = []
        for module, loss in zip((ours, plain), losses, strict=True):
            module.zero_grad()
            loss.backward()
            named = module.named_parameters()
            sides.append({name: p.grad for name, p in named if p.grad is not None})
        if sides[0].keys() != sides[1].keys():
            raise ValueError(f"{sorted(sides[0].keys() ^ sides[1].keys())} learn on one side only")
        norm = torch.stack([g.norm() for g in sides[1].values()]).norm()
        worst = max(float((g - sides[1][name]).norm() / norm) for name, g in sides[0].items())
        return {"loss": float((losses[0] - losses[1]).detach().abs()), "gradient": worst}

    def runs(self, part: str, *, compiled: bool = False) -> list[Callable[[], object]]:
        """One call of ours and of the plain one."""
        ours, plain = self.modules(part)
        if part == "encode":
            ours.eval(), plain.eval()
            encode = torch.compile(self.encode) if compiled else self.encode
            return [self._mixed(encode), lambda: self.plain.encode(*self.data)]
        ours.train(), plain.train()
        loss = torch.compile(self.our_loss) if compiled else self.our_loss
        return [
            _step(ours, self._mixed(lambda: loss(part, self._own_draws(part))), fused=True),
            _step(plain, lambda: self.plain_loss(part, self.draws(part)), fused=None),
        ]

    def _mixed(self, run: Callable[[], Any]) -> Callable[[], Any]:
        def mixed() -> Any:
            context: AbstractContextManager[Any] = nullcontext()
            if self.device != "cpu":
                context = torch.autocast(self.device, torch.bfloat16)
            with context:
                return run()

        return mixed


def _step(
    module: nn.Module, loss: Callable[[], Tensor], *, fused: bool | None
) -> Callable[[], None]:
    learned = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-5, fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds: of the CPU, or between two events of the GPU."""
    if device == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def peak(device: str) -> float:
    """Rate of the matrix product, 1e9 operations per second; bf16 on a GPU."""
    n = 1536 if device == "cpu" else 8192
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    a, b = torch.randn(2, n, n, device=device, dtype=dtype).unbind(0)
    return 2e-9 * n**3 / min(timed(lambda: a @ b, device) for _ in range(6))


def waits(run: Callable[[], object], device: str) -> int | None:
    """How often a call waits for the GPU."""
    if device == "cpu":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(item.message) for item in caught)


def used_memory(sides: Sides, part: str, side: int) -> float:
    """MB that two calls add at their peak; meant for a process of its own."""
    run = sides.runs(part)[side]
    if sides.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _status("VmRSS")
    run()
    run()
    return (_status("VmHWM") - before) * 1024 / 1e6


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure(sides: Sides, part: str, *, repeats: int, compiled: bool) -> dict[str, Any]:
    """Times of both sides, alternating, with what they are compared with."""
    runs = sides.runs(part, compiled=compiled)
    with FlopCounterMode(display=False) as counter:
        runs[1]()
    # The counter does not know the LSTM: 2 layers x 4 gates x (input + state), 2 stacks in stage 1.
    lstm = sides.tokenizer.encoder.lstm.lstm
    rows = sides.batch * sides.channels * sides.steps()
    if part == "stage1":
        rows = 3 * sides.batch * 1.75 * sides.channels * sides.samples / sides.tokenizer.hop
    elif part == "stage2_tokens":
        rows = 0
    work = 1e-9 * (counter.get_total_flops() + 2 * rows * 2 * 4 * 2 * lstm.hidden_size**2)
    for _ in range(2):
        runs[0]()
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for run, kept in zip(runs, times, strict=True):
            kept.append(timed(run, sides.device))
    ours, plain = (statistics.median(kept) for kept in times)
    top = peak(sides.device)
    return {
        "part": part,
        "ours": times[0],
        "plain": times[1],
        "ratio": plain / ours,
        "operations": work,
        "of_peak": work / ours / top,
        "plain_of_peak": work / plain / top,
        "peak": top,
        "tokens_per_s": sides.batch * sides.tokenizer.n_sources * sides.steps() / ours,
        "waits": waits(runs[0], sides.device),
    }


def text(result: dict[str, Any], memory: list[float], differences: dict[str, float]) -> str:
    """A few lines on one part."""
    lines = [f"{result['part']}: ratio {result['ratio']:.2f}"]
    for name, share, used in (("ours", "of_peak", 0), ("plain", "plain_of_peak", 1)):
        t = result[name]
        lines.append(
            f"  {name:<6} {statistics.median(t):.4f} s ({min(t):.4f} - {max(t):.4f}), "
            f"{100 * result[share]:.0f} % of the matrix product, {memory[used]:.0f} MB"
        )
    found = ", ".join(f"{key} {value:.1e}" for key, value in differences.items())
    lines.append(
        f"  {result['operations']:.0f} G operations, matrix product {result['peak']:.0f} G/s, "
        f"{result['tokens_per_s']:.0f} tokens/s; differences: {found}"
    )
    if result["waits"] is not None:
        lines.append(f"  the host waits for the device {result['waits']} times per call")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Speed of BrainOmni.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="torch.compile of our side")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--memory-of", nargs=2, metavar=("PART", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch._dynamo.config.allow_rnn = True  # with --compile the LSTM stays in the graph
    shape = {"device": options.device, "batch": options.batch, "channels": options.channels}
    if options.memory_of:
        part, side = options.memory_of
        print(used_memory(Sides(**shape), part, int(side)))
        return
    for part in options.parts:
        differences = Sides(**shape, dropout=0.0).differences(part)
        result = measure(Sides(**shape), part, repeats=options.repeats, compiled=options.compile)
        memory = []
        for side in "01":
            words = [f"--{key}={value}" for key, value in shape.items()]
            command = [sys.executable, "-m", "tests.benchmarks.brainomni", *words]
            done = subprocess.run(
                [*command, "--memory-of", part, side], capture_output=True, text=True, check=True
            )
            memory.append(json.loads(done.stdout))
        print(text(result, memory, differences), flush=True)


if __name__ == "__main__":
    main()
