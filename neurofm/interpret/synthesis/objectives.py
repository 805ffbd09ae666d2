"""What a synthesised signal is to drive: a unit, a direction, a class, a pattern, a latent.

Objectives are added and weighted like numbers: `Logit(1) - 0.5 * Unit("blocks.2", 7)`. Each gives
one number per signal, larger = better, and knows another one of its kind drawn at random, for a
control.

Sites are those of `record`, selections included (`blocks.1[token=3]`). Values at all places of a
site (tokens, moments) are averaged, padded tokens left out.
Axes: the first axis is signal; unit = features of a site, along `axis`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from neurofm.interpret.patching import Context, patched
from neurofm.shapes import Float

Run = Callable[[Any], Any]
Reduce = Literal["mean", "max", "centre"]


@dataclass(frozen=True)
class Seen:
    """What one pass showed: values and masks of every call at each site, and the output."""

    values: Mapping[str, Sequence[tuple[Tensor, Tensor | None]]]
    output: Any
    n: int

    def at(self, site: str) -> list[tuple[Tensor, Tensor | None]]:
        """Values there, checked to have one row per signal."""
        calls = self.values[site]
        if not calls:
            raise ValueError(f"maximise: the run never passes {site!r}.")
        for value, _ in calls:
            if value.ndim < 2 or len(value) != self.n:
                raise ValueError(
                    f"maximise: {site!r} has shape {tuple(value.shape)} for {self.n} signals; a "
                    "row per signal and an axis of units are needed."
                )
        return list(calls)


class Objective(ABC):
    """One number per signal."""

    @property
    @abstractmethod
    def sites(self) -> tuple[str, ...]:
        """Places it has to see."""

    @abstractmethod
    def score(self, seen: Seen) -> Float[Tensor, " signal"]:
        """How well each signal does."""

    @abstractmethod
    def other(self, seen: Seen, generator: torch.Generator) -> Objective:
        """One of the same kind at random: another unit, another direction."""

    def __add__(self, second: Objective) -> Objective:
        return Weighted(((1.0, self), (1.0, second)))

    def __sub__(self, second: Objective) -> Objective:
        return Weighted(((1.0, self), (-1.0, second)))

    def __mul__(self, weight: float | int) -> Objective:
        return Weighted(((float(weight), self),))

    __rmul__ = __mul__

    def __neg__(self) -> Objective:
        return self * -1.0


@dataclass(frozen=True)
class Weighted(Objective):
    """A weighted sum."""

    terms: tuple[tuple[float | int, Objective], ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """Of all terms."""
        return tuple(dict.fromkeys(site for _, term in self.terms for site in term.sites))

    def score(self, seen: Seen) -> Float[Tensor, " signal"]:
        """Weighted sum of the scores."""
        scores = [weight * term.score(seen) for weight, term in self.terms]
        return torch.stack(scores).sum(0)

    def other(self, seen: Seen, generator: torch.Generator) -> Objective:
        """Every term at random."""
        return Weighted(tuple((w, term.other(seen, generator)) for w, term in self.terms))

    def __str__(self) -> str:
        return " + ".join(f"{weight:g} x ({term})" for weight, term in self.terms)


@dataclass(frozen=True)
class AtSite(Objective):
    """What is read from the values at one site."""

    site: str

    @property
    def sites(self) -> tuple[str, ...]:
        """The site."""
        return (self.site,)


class OverPlaces(AtSite):
    """A number for each place from the units there, then one over places."""

    axis: int
    reduce: Reduce = "mean"

    @abstractmethod
    def of_units(self, rows: Float[Tensor, "signal place unit"]) -> Float[Tensor, "signal place"]:
        """The number of each place."""

    def score(self, seen: Seen) -> Float[Tensor, " signal"]:
        """Over places, mean over calls."""
        found = []
        for value, mask in seen.at(self.site):
            places = self.of_units(unit_last(value, self.axis))
            found.append(over_places(places, _of_places(value, mask, self.axis), self.reduce))
        return torch.stack(found).mean(0)


@dataclass(frozen=True)
class Unit(OverPlaces):
    """One unit of a site.

    Args:
        unit: Its number.
        axis: Of the units: -1 for tokens, 1 for the filters of a convolution.
        reduce: Over places: their mean, the largest, or the one in the middle.
    """

    unit: int
    axis: int = -1
    reduce: Reduce = "mean"

    def of_units(self, rows: Float[Tensor, "signal place unit"]) -> Float[Tensor, "signal place"]:
        """Value of the unit."""
        n_units = rows.shape[-1]
        if not -n_units <= self.unit < n_units:
            raise ValueError(
                f"maximise: no unit {self.unit} of {n_units} at {self.site!r}, axis {self.axis}."
            )
        return rows[..., self.unit]

    def other(self, seen: Seen, generator: torch.Generator) -> Objective:
        """Another unit of the site."""
        n_units = seen.at(self.site)[0][0].shape[self.axis]
        return replace(self, unit=_another(self.unit % n_units, n_units, generator))

    def __str__(self) -> str:
        return f"unit {self.unit} of {self.site}"


@dataclass(frozen=True)
class Direction(OverPlaces):
    """A direction of a site: its scalar product with the values, mean over places.

    Args:
        direction: A weight per unit.
        axis: See `Unit`.
        name: For figures.
    """

    direction: Float[Tensor, " unit"]
    axis: int = -1
    name: str = ""

    def of_units(self, rows: Float[Tensor, "signal place unit"]) -> Float[Tensor, "signal place"]:
        """Projection on the direction."""
        if rows.shape[-1] != len(self.direction):
            raise ValueError(
                f"maximise: a direction of {len(self.direction)} for {rows.shape[-1]} units at "
                f"{self.site!r}, axis {self.axis}."
            )
        return rows @ self.direction.to(rows)

    def other(self, seen: Seen, generator: torch.Generator) -> Objective:
        """A random direction of the same length."""
        drawn = torch.randn(len(self.direction), generator=generator).to(self.direction)
        drawn = drawn / drawn.norm() * self.direction.norm()
        return replace(self, direction=drawn, name="random direction")

    def __str__(self) -> str:
        return f"{self.name or 'direction'} at {self.site}"


@dataclass(frozen=True)
class Logit(Objective):
    """A column of the output of the run.

    Args:
        index: Class, or output.
        against: Another class whose logit is subtracted.
    """

    index: int
    against: int | None = None
    name: str = ""

    @property
    def sites(self) -> tuple[str, ...]:
        """None: the output alone."""
        return ()

    def score(self, seen: Seen) -> Float[Tensor, " signal"]:
        """The logit."""
        logits = _logits(seen)
        if max(self.index, self.against or 0) >= logits.shape[1]:
            raise ValueError(f"maximise: no {self} among {logits.shape[1]} outputs.")
        score = logits[:, self.index]
        return score if self.against is None else score - logits[:, self.against]

    def other(self, seen: Seen, generator: torch.Generator) -> Objective:
        """Another class."""
        n = _logits(seen).shape[1]
        if self.against is not None:
            return Logit(self.against, self.index)
        return Logit(_another(self.index, n, generator))

    def __str__(self) -> str:
        text = self.name or f"output {self.index}"
        return text if self.against is None or self.name else f"{text} against {self.against}"


@dataclass(frozen=True)
class Pattern(AtSite):
    """Nearness to a pattern at a site: minus the squared distance, relative to the pattern's norm.

    The pattern is what a recorded window makes there (feature inversion), or what a brain answered
    where the units of the site stand for its channels. 0 is best; -1 is what zeros reach.

    Args:
        pattern: Of the shape of the value of one signal.
    """

    pattern: Tensor

    def score(self, seen: Seen) -> Float[Tensor, " signal"]:
        """Minus the relative squared distance."""
        value, _ = seen.at(self.site)[0]
        if value.shape[1:] != self.pattern.shape:
            raise ValueError(
                f"maximise: a pattern of {tuple(self.pattern.shape)} for values of "
                f"{tuple(value.shape[1:])} at {self.site!r}."
            )
        goal = self.pattern.to(value)
        size = goal.square().sum().clamp(min=torch.finfo(goal.dtype).tiny)
        return -(value - goal).square().flatten(1).sum(1) / size

    def other(self, seen: Seen, generator: torch.Generator) -> Objective:
        """The same numbers in random places."""
        order = torch.randperm(self.pattern.numel(), generator=generator)
        mixed = self.pattern.flatten()[order.to(self.pattern.device)]
        return Pattern(self.site, mixed.view_as(self.pattern))

    def __str__(self) -> str:
        return f"nearness to a pattern at {self.site}"


@runtime_checkable
class Dictionary(Protocol):
    """A sparse autoencoder, as far as this needs one."""

    def pre_activations(self, x: Tensor) -> Tensor:
        """`*batch dim` to `*batch latent`."""
        ...


@dataclass(frozen=True)
class Latent(OverPlaces):
    """A latent of a sparse autoencoder at the site it was trained on.

    The value before selection, signed: a latent that is not selected would have no gradient.

    Args:
        autoencoder: Such as `decomposition.SparseAutoencoder`.
        latent: Its number.
        axis: Of the units.
    """

    autoencoder: Dictionary
    latent: int
    axis: int = -1

    def of_units(self, rows: Float[Tensor, "signal place unit"]) -> Float[Tensor, "signal place"]:
        """Value of the latent."""
        latents = self.autoencoder.pre_activations(rows)
        if not 0 <= self.latent < latents.shape[-1]:
            raise ValueError(f"maximise: no latent {self.latent} of {latents.shape[-1]}.")
        return latents[..., self.latent]

    def other(self, seen: Seen, generator: torch.Generator) -> Objective:
        """Another latent."""
        value = seen.at(self.site)[0][0]
        n = self.autoencoder.pre_activations(unit_last(value[:1], self.axis)).shape[-1]
        return replace(self, latent=_another(self.latent, n, generator))

    def __str__(self) -> str:
        return f"latent {self.latent} at {self.site}"


def see(model: nn.Module, run: Run, sites: Sequence[str], inputs: Any, n: int) -> Seen:
    """One pass, with what it shows at sites; gradients flow if they are on."""
    kept: dict[str, list[tuple[Tensor, Tensor | None]]] = {site: [] for site in sites}

    def keep(value: Tensor, context: Context) -> Tensor:
        kept[context.site].append((value, context.mask))
        return value

    with patched(model, dict.fromkeys(kept, keep)):
        output = run(inputs)
    return Seen(kept, output, n)


def unit_last(value: Tensor, axis: int) -> Float[Tensor, "signal place unit"]:
    """The axis of the units last, all places on one axis."""
    if axis in (0, -value.ndim):
        raise ValueError("maximise: axis 0 is the signals; give the axis of the units.")
    rows = value.movedim(axis, -1)
    return rows.reshape(len(rows), -1, rows.shape[-1])


def over_places(
    values: Float[Tensor, "signal place"], mask: Tensor | None, reduce: Reduce
) -> Float[Tensor, " signal"]:
    """One number per signal."""
    if reduce == "centre":
        return values[:, values.shape[1] // 2]
    if reduce == "max":
        return (values if mask is None else values.masked_fill(~mask, -torch.inf)).amax(1)
    if mask is None:
        return values.mean(1)
    weight = mask.to(values)
    return (values * weight).sum(1) / weight.sum(1).clamp(min=1)


def _of_places(value: Tensor, mask: Tensor | None, axis: int) -> Tensor | None:
    """The mask where it fits the places."""
    fits = mask is not None and value.ndim == 3 and axis in (-1, 2)
    return mask if fits and mask is not None and mask.shape == value.shape[:2] else None


def _logits(seen: Seen) -> Tensor:
    out = seen.output
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != seen.n:
        what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"maximise: the run returned {what} for {seen.n} signals; a logit needs `signal "
            "output`. Give `run`, such as lambda batch: readout(model.encode(batch))."
        )
    return out


def _another(k: int, n: int, generator: torch.Generator) -> int:
    if n < 2:
        raise ValueError("maximise: control='unit' needs another unit, and there is only one.")
    drawn = int(torch.randint(n - 1, (1,), generator=generator))
    return drawn + (drawn >= k)
