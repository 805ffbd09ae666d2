"""Peak memory of `encode` of one 10-s window, by the number of channels.

    python -m tests.benchmarks memory [--channels 32 64 128 256] [--models brainomni_tiny ...]

Published sizes with random weights, on a CPU, in float32 and without gradients; what one call adds
to the process at its peak, in MB. Models with a fixed set of channels are refused by themselves.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from neurofm import cards
from neurofm.batch import Batch
from neurofm.io import load_tokenizer
from neurofm.units import Kind

MODELS = ("brainomni_tiny", "tfm_encoder", "patch_transformer_base", "meg_gpt", "du_in", "mirepnet")


def status(key: str) -> int:
    """A line of the kernel's account of this process, kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def noise(channels: int, sfreq: float, kind: Kind, seconds: float) -> Batch:
    """One window."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        x=20 * torch.randn(1, channels, round(seconds * sfreq), generator=generator),
        channel_mask=torch.ones(1, channels, dtype=torch.bool),
        kind=torch.full((1, channels), int(kind)),
        position=0.05 * torch.randn(1, channels, 3, generator=generator),
        orientation=torch.zeros(1, channels, 3),
        has_position=torch.ones(1, channels, dtype=torch.bool),
        sfreq=sfreq,
        onset=torch.zeros(1, dtype=torch.float64),
        subject=torch.zeros(1, dtype=torch.long),
        recording=torch.zeros(1, dtype=torch.long),
    )


@torch.no_grad()
def measure(name: str, channels: list[int], seconds: float) -> str:
    """A line of the table, with the exponent of growth between the last two."""
    card = cards.read("models", name)
    expects = card["expects"]
    arguments = dict(card["init_args"])
    if "tokenizer" in expects:  # published without the tokenizer it reads from
        arguments["tokenizer"] = load_tokenizer(expects["tokenizer"])
    model = cards.build({"class_path": card["class_path"], "init_args": arguments}).eval()
    kind, sfreq = Kind[expects["kinds"][0].upper()], float(expects.get("sfreq", 128))
    used: list[float] = []
    try:
        for n in channels:
            batch = noise(n, sfreq, kind, seconds)
            model.encode(batch)
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
            before = status("VmRSS")
            model.encode(batch)
            used.append(max(status("VmHWM") - before, 1) * 1024 / 1e6)
    except (ValueError, RuntimeError) as error:
        return f"{name}: {used} then {str(error).splitlines()[0][:120]}"
    growth = math.log(used[-1] / used[-2]) / math.log(channels[-1] / channels[-2])
    return (
        f"{name}: "
        + " ".join(f"{n}: {mb:.0f}" for n, mb in zip(channels, used, strict=True))
        + (f"; grows with channels to the power {growth:.2f}")
    )


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Memory of encode by channels.")
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.models:
        print(measure(name, options.channels, options.seconds), flush=True)


if __name__ == "__main__":
    main()
