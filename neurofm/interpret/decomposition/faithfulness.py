"""Does a model still work when a site is replaced by what an autoencoder says of it?

`splice` and `stand_in` are patches for `patched`. Loss recovered compares the loss of the spliced
model with that of the whole one and with that of a model whose site is zero; ablating single
latents says what they do, beside latents that speak as often.

Axes: batch latent dim; one loss per batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret.decomposition.sparse_autoencoder import SparseAutoencoder
from neurofm.interpret.decomposition.transcoder import Transcoder
from neurofm.interpret.patching import Context, Patch, patched
from neurofm.shapes import Float
from neurofm.stats import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Loss = Callable[[Any], Any]
Edit = Callable[[Tensor], Tensor]
SMALLEST = 1e-6  # difference of losses that can be divided by


def splice(
    site: str,
    autoencoder: SparseAutoencoder,
    *,
    centre: Tensor | None = None,
    edit: Edit | None = None,
    keep_error: bool = False,
) -> dict[str, Patch]:
    """A patch that puts an autoencoder into a site.

    Args:
        centre: Taken from the value before and added afterwards, such as the mean of each source,
            where the autoencoder was trained on what is left (`... dim`, of any shape that
            broadcasts).
        edit: Changes the latents (`... latent`) before they are decoded.
        keep_error: Put back what the autoencoder misses, so that the edit alone changes the model.
    """

    def replace(value: Tensor, _: Context) -> Tensor:
        offset = 0.0 if centre is None else centre.to(value)
        latents = autoencoder.encode(value - offset)
        found = autoencoder.decode(latents if edit is None else edit(latents))
        return found + (value - autoencoder.decode(latents) if keep_error else offset)

    return {site: replace}


def stand_in(path: str, transcoder: Transcoder) -> dict[str, Patch]:
    """Patches that put a transcoder in place of the module at `path`."""
    inputs: list[Tensor] = []

    def keep(value: Tensor, _: Context) -> Tensor:
        inputs.append(value)
        return value

    def replace(_: Tensor, __: Context) -> Tensor:
        return transcoder(inputs.pop())

    return {f"{path}:input": keep, f"{path}:output": replace}


@dataclass(frozen=True)
class LossRecovered:
    """What a replacement keeps of a model's loss, or of any other score.

    Args:
        recovered: (zero - spliced) / (zero - original): 1 is as good as the model, 0 as bad as
            zeros at the site. NaN where zeros make no difference.
        low: Lower end of the 95 % interval over batches.
        high: Upper end.
        from_mean: The same with the mean over windows in place of zeros, of each place (token) by
            itself: a harder baseline, which still knows where a token is.
        original: Loss of every batch.
        spliced: With the replacement.
        zero: With zeros at the site.
        mean: With the means at the site.
    """

    recovered: float
    low: float
    high: float
    from_mean: float
    original: Float[np.ndarray, " batch"]
    spliced: Float[np.ndarray, " batch"]
    zero: Float[np.ndarray, " batch"]
    mean: Float[np.ndarray, " batch"]

    def __str__(self) -> str:
        losses = {"whole": self.original, "spliced": self.spliced, "means": self.mean}
        said = ", ".join(f"{name} {value.mean():.3f}" for name, value in losses.items())
        return (
            f"loss {said}, zeros {self.zero.mean():.3f}: {self.recovered:.3f} recovered "
            f"({self.low:.3f} to {self.high:.3f} over {len(self.original)} batches; zeros are the "
            f"baseline 0), {self.from_mean:.3f} with means as the baseline"
        )

    def plot(self) -> Figure:
        """The four losses."""
        from neurofm.figures import plot_bars

        values = {"model": self.original, "spliced": self.spliced, "mean": self.mean}
        values["zeros"] = self.zero
        return plot_bars(
            {name: float(value.mean()) for name, value in values.items()},
            title=f"{self.recovered:.0%} recovered, {len(self.original)} batches",
            unit="loss",
            intervals={name: bootstrap_interval(value) for name, value in values.items()},
        )


def _ratio(spliced: np.ndarray, original: np.ndarray, baseline: np.ndarray) -> float:
    whole = float((baseline - original).sum())
    if abs(whole) / len(original) < SMALLEST:
        return float("nan")
    return float((baseline - spliced).sum()) / whole


def loss_recovered(
    model: nn.Module,
    site: str,
    patches: Mapping[str, Patch],
    loss: Loss,
    batches: Iterable[Any],
) -> LossRecovered:
    """Compare a model with itself after a replacement.

    Args:
        site: Where zeros and the mean go: the output that is replaced.
        patches: Of `splice` or `stand_in`.
        loss: Of one batch by the model, a number or one per window; any score that is worse
            without the site. Random numbers in it must be the same in every call.
        batches: Gone through several times.

    Raises:
        ValueError: No batches, or a loss that is not finite.
    """
    batches = list(batches)
    if not batches:
        raise ValueError("loss_recovered: no batches.")
    sums: dict[tuple[int, ...], Tensor] = {}
    counts: dict[tuple[int, ...], int] = {}

    def add(value: Tensor, _: Context) -> Tensor:
        # Of each place (source and step of a token), so that what a place always says stays known.
        shape = tuple(value.shape[1:])
        sums[shape] = sums.get(shape, 0) + value.detach().double().sum(0)
        counts[shape] = counts.get(shape, 0) + len(value)
        return value

    def blank(value: Tensor, _: Context) -> Tensor:
        return torch.zeros_like(value)

    def average(value: Tensor, _: Context) -> Tensor:
        shape = tuple(value.shape[1:])
        return (sums[shape] / counts[shape]).to(value.dtype).expand_as(value)

    original = _losses(model, {site: add}, loss, batches)
    spliced = _losses(model, patches, loss, batches)
    zero = _losses(model, {site: blank}, loss, batches)
    mean = _losses(model, {site: average}, loss, batches)
    recovered = _ratio(spliced, original, zero)
    if np.isnan(recovered):
        warnings.warn(
            f"loss_recovered: zeros at {site!r} change the loss by less than {SMALLEST:g}; there "
            "is nothing to recover.",
            stacklevel=2,
        )
        low = high = float("nan")
    else:
        low, high = bootstrap_interval(
            np.arange(len(batches)),
            statistic=lambda i: _ratio(*(v[i.astype(int)] for v in (spliced, original, zero))),
            method="percentile",
        )
    against = _ratio(spliced, original, mean)
    return LossRecovered(recovered, low, high, against, original, spliced, zero, mean)


@torch.no_grad()
def _losses(
    model: nn.Module, patches: Mapping[str, Patch], loss: Loss, batches: Sequence[Any]
) -> Float[np.ndarray, " batch"]:
    modes = [(module, module.training) for module in model.modules()]
    found = []
    try:
        model.eval()
        for batch in batches:
            with patched(model, patches):
                value = loss(batch)
            found.append(float(torch.as_tensor(value).double().mean()))
    finally:
        for module, training in modes:
            module.training = training
    if not np.isfinite(found).all():
        raise ValueError(f"loss_recovered: a loss is not finite: {found}.")
    return np.array(found)


@dataclass(frozen=True)
class LatentEffects:
    """What a score loses without single latents, the rest of the model being whole.

    Args:
        latents: That were changed, one at a time.
        effects: Score after the change minus before, for every batch.
        controls: Other latents that speak as often.
        control_effects: The same of these.
    """

    latents: tuple[int, ...]
    effects: Float[np.ndarray, "latent batch"]
    controls: tuple[int, ...]
    control_effects: Float[np.ndarray, "control batch"]

    def interval(self, number: int) -> tuple[float, float]:
        """95 % over batches, of the effect of `latents[number]`."""
        return bootstrap_interval(self.effects[number], method="percentile")

    @property
    def rank(self) -> Float[np.ndarray, " latent"]:
        """Share of controls with at least as large a mean effect, either sign."""
        own = np.abs(self.effects.mean(1))[:, None]
        return (np.abs(self.control_effects.mean(1)) >= own).mean(1)

    def plot(self) -> Figure:
        """Mean effects beside those of the controls."""
        from neurofm.figures import plot_bars

        values = {
            f"latent {i}": float(e.mean()) for i, e in zip(self.latents, self.effects, strict=True)
        }
        ends = {f"latent {i}": self.interval(n) for n, i in enumerate(self.latents)}
        if self.controls:
            name = f"{len(self.controls)} controls"
            mean = self.control_effects.mean(1)
            values[name] = float(mean.mean())
            ends[name] = tuple(np.percentile(mean, [2.5, 97.5]))
        return plot_bars(
            values, title="Without single latents", unit="change of the score", intervals=ends
        )


def latent_effects(
    model: nn.Module,
    site: str,
    autoencoder: SparseAutoencoder,
    score: Loss,
    batches: Iterable[Any],
    latents: Sequence[int],
    *,
    controls: Sequence[int] = (),
    centre: Tensor | None = None,
    value: float | None = 0.0,
    add: float = 0.0,
) -> LatentEffects:
    """Ablate or steer latents one at a time, the autoencoder's error put back.

    Args:
        score: Of one batch by the model.
        controls: See `matched`.
        centre: See `splice`.
        value: What the latent is set to; None keeps it.
        add: Added after that to all tokens, in the latent's own unit: steering.
    """
    batches = list(batches)
    before = _losses(
        model, splice(site, autoencoder, centre=centre, keep_error=True), score, batches
    )

    def effect(latent: int) -> np.ndarray:
        def edit(z: Tensor) -> Tensor:
            z = z.clone()
            z[..., latent] = (z[..., latent] if value is None else value) + add
            return z

        patches = splice(site, autoencoder, centre=centre, edit=edit, keep_error=True)
        return _losses(model, patches, score, batches) - before

    for latent in (*latents, *controls):
        if not 0 <= latent < autoencoder.n_latents:
            raise ValueError(
                f"latent_effects: no latent {latent}; there are {autoencoder.n_latents}."
            )
    empty = np.empty((0, len(batches)))
    return LatentEffects(
        latents=tuple(int(i) for i in latents),
        effects=np.array([effect(i) for i in latents]).reshape(-1, len(batches)),
        controls=tuple(int(i) for i in controls),
        control_effects=np.array([effect(i) for i in controls]) if len(controls) else empty,
    )


def matched(
    size: Float[np.ndarray, " latent"],
    latents: Sequence[int],
    n: int,
    *,
    generator: np.random.Generator,
) -> list[int]:
    """Other latents that are most like the given ones in size: controls.

    Args:
        size: What they are matched in, such as how often each speaks or its mean activation.
        n: For each of the latents, drawn from the 2 n nearest.
    """
    free = np.setdiff1d(np.flatnonzero(size > 0), latents)
    chosen: list[int] = []
    for latent in latents:
        distance = np.abs(np.log(size[free]) - np.log(max(float(size[latent]), 1e-12)))
        near = free[np.argsort(distance, kind="stable")[: 2 * n]]
        if len(near) < n:
            raise ValueError(f"matched: {n} controls wanted, {len(near)} other latents speak.")
        chosen += generator.choice(near, n, replace=False).tolist()
        free = np.setdiff1d(free, chosen)
    return [int(i) for i in chosen]
