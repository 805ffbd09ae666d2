"""Signals and images written by a network that learned to make them: codes of a generator (DGN-AM).

Any decoder of this project or of others serves: it turns `signal *code` into what the network takes
and lets gradients through. Steps are those published: along the gradient over its mean magnitude,
falling linearly, then shrunk and clipped to the range that codes of real data have.

Source: Nguyen et al. 2016 (DGN-AM, arXiv 1605.09304).
Axes: signal, then those of a code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neurofm.batch import Batch
from neurofm.interpret.attribution.evidence import repeated
from neurofm.interpret.causal.runs import still
from neurofm.interpret.synthesis.signals import Prior
from neurofm.shapes import Float

Decode = Callable[[Tensor], Tensor]


class GeneratorPrior(Prior):
    """Codes of a generator.

    Args:
        decode: Codes to signals or images.
        low: Smallest value of each entry of a code.
        high: Largest.
        step: First step, in units of the codes; 8 is published for 4096 features of an image
            network. It falls to `last`. `lr` of `maximise` is not used.
        last: Last step.
        decay: Codes are multiplied by it after each step.
        spread: Standard deviation of the first codes, in halves of the range around its middle;
            0 starts at zero, or at the nearest code to it.
        encode_signals: Signals to codes, for starts that are signals.
    """

    def __init__(
        self,
        decode: Decode,
        low: Float[Tensor, "*code"],
        high: Float[Tensor, "*code"],
        *,
        step: float | int = 8.0,
        last: float | int = 1e-10,
        decay: float | int = 0.99,
        spread: float | int = 0.1,
        encode_signals: Decode | None = None,
    ) -> None:
        if low.shape != high.shape or bool((low > high).any()):
            raise ValueError(
                f"GeneratorPrior: low {tuple(low.shape)} and high {tuple(high.shape)} must have "
                "one shape, and low be nowhere above high."
            )
        self.decode, self.low, self.high = decode, low, high
        self.step, self.last, self.decay, self.spread = step, last, decay, spread
        self.encode_signals = encode_signals

    @classmethod
    def of_codes(
        cls,
        decode: Decode,
        codes: Float[Tensor, "window ..."],
        *,
        step: float | int | None = None,
        encode_signals: Decode | None = None,
    ) -> GeneratorPrior:
        """From codes of real data.

        Each entry stays in 0 to 3 standard deviations where codes are never negative, as published,
        and within 3 of its mean otherwise.

        Args:
            step: Half of the mean range if not given.
        """
        if len(codes) < 2:
            raise ValueError(f"GeneratorPrior: {len(codes)} codes say nothing about their spread.")
        spread, mean = codes.std(0), codes.mean(0)
        positive = bool((codes >= 0).all())
        low = torch.zeros_like(mean) if positive else mean - 3 * spread
        high = 3 * spread if positive else mean + 3 * spread
        size = float((high - low).mean()) / 2 if step is None else step
        return cls(decode, low, high, step=size, encode_signals=encode_signals)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Random codes near the middle of their range (near 0 if that is inside)."""
        half = (self.high - self.low) / 2
        middle = torch.zeros_like(half).clamp(self.low, self.high)
        noise = torch.randn(n, *half.shape, generator=generator).to(half)
        noise = torch.where(middle <= self.low, noise.abs(), noise)  # inside, where gradients are
        return (middle + self.spread * half * noise).clamp(self.low, self.high)

    def signals(self, parameters: Tensor) -> Tensor:
        """Decoded."""
        return self.decode(parameters)

    def encode(self, signals: Tensor) -> Tensor:
        """By the function given."""
        if self.encode_signals is None:
            raise ValueError("GeneratorPrior: give encode_signals to start from signals.")
        with torch.no_grad():
            return self.encode_signals(signals).clamp(self.low, self.high)

    @torch.no_grad()
    def settle(self, parameters: Tensor) -> None:
        """Shrink and clip."""
        parameters.mul_(self.decay).clamp_(self.low, self.high)

    def stepper(self, parameters: Tensor, steps: int, lr: float) -> Callable[[int], None]:
        """The published rule."""

        @torch.no_grad()
        def step(k: int) -> None:
            if parameters.grad is None:
                return
            size = self.step + (self.last - self.step) * k / max(steps - 1, 1)
            downhill = parameters.grad.flatten(1)
            mean = downhill.abs().mean(1, keepdim=True)
            unit = downhill / mean.clamp(min=torch.finfo(mean.dtype).tiny)
            parameters.sub_(size * unit.view_as(parameters))

        return step


def tokenizer_prior(
    tokenizer: nn.Module, windows: Batch, *, step: float | int | None = None
) -> GeneratorPrior:
    """Latents of a tokenizer, between its quantizer and its decoder, free of the code book.

    Signals are those of its `decode` for the sensors and the scale of the first window.

    Args:
        tokenizer: With `quantizer.lookup`, as those of `neurofm.tokenizers` that decode codes.
        windows: Real ones, whose latents set the range.

    Raises:
        ValueError: No such quantizer, or a decoder that asks it more than once.
    """
    quantizer: Any = getattr(tokenizer, "quantizer", None)
    net: Any = tokenizer
    if not hasattr(quantizer, "lookup") or not hasattr(net, "decode"):
        raise ValueError(
            f"tokenizer_prior: {type(tokenizer).__name__} has no quantizer.lookup and decode; give "
            "GeneratorPrior a function that decodes its latents."
        )
    found: list[Tensor] = []

    def kept(lookup: Decode) -> Decode:
        def look(codes: Tensor) -> Tensor:
            found.append(lookup(codes))
            return found[-1]

        return look

    with still(tokenizer), _looking_up(quantizer, kept(quantizer.lookup)):
        net.decode(tokenizer(windows), windows)
    if len(found) != 1 or len(found[0]) % len(windows):
        raise ValueError(
            f"tokenizer_prior: the decoder looks codes up {len(found)} times; give GeneratorPrior "
            "a function that decodes latents."
        )
    codes = found[0].unflatten(0, (len(windows), -1))
    first: Batch = windows._map(lambda tensor: tensor[:1])
    with still(tokenizer):
        tokens = tokenizer(first)

    def decode(z: Tensor) -> Tensor:
        many = tokens._map(lambda t: t.repeat(len(z), *[1] * (t.ndim - 1)))
        with _looking_up(quantizer, lambda _: z.flatten(0, 1)):
            made: Tensor = net.decode(many, repeated(first, len(z)))
        return made

    return GeneratorPrior.of_codes(decode, codes, step=step)


@contextmanager
def _looking_up(quantizer: nn.Module, function: Decode) -> Iterator[None]:
    """A block in which a quantizer looks codes up by another function."""
    before = vars(quantizer).get("lookup")
    try:
        vars(quantizer)["lookup"] = function
        yield
    finally:
        if before is None:
            del vars(quantizer)["lookup"]
        else:
            vars(quantizer)["lookup"] = before
