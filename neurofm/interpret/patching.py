"""The write counterpart of `record`: change what passes through named places while a model runs.

    with patched(model, {"blocks.1": lambda value, context: value * 0}):
        model.encode(batch)

It is the one way in which interpretation changes a forward pass: patching, steering, ablation and
splicing in autoencoders are functions given to it. Gradients flow through what a function returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from neurofm.interpret.places import Hooked, Site, read, write


@dataclass(frozen=True)
class Context:
    """What a patch knows besides the value.

    Args:
        site: Its name as given.
        call: Which call of the module this is since the block began (or `next_batch`).
        module: The module whose input or output the value is.
        mask: Which tokens are real, where the value says so.
    """

    site: str
    call: int
    module: nn.Module
    mask: Tensor | None = None


Patch = Callable[[Tensor, Context], Tensor]


class Patched(Hooked):
    """Changes values at sites while it is open; use it through `patched`."""

    def __init__(self, model: nn.Module, patches: Mapping[str, Patch]) -> None:
        super().__init__(model, list(patches), who="patched")
        self._patches = dict(patches)
        for site in self._sites:
            f = self._patches[site.name]
            if not callable(f):
                raise TypeError(
                    f"patched: {site.name!r} got a {type(f).__name__}; give a function "
                    "of (value, context) that returns a value."
                )
            if site.shared and site.call is None:
                raise ValueError(
                    f"patched: {site.path!r} is the same module as {site.shared[0]!r}, so all "
                    f"their calls would change. Say which one: '{site.name}@0' is the first."
                )
        self._changed: set[str] = set()

    def _finish(self) -> None:
        missed = [site.name for site in self._sites if site.name not in self._changed]
        if missed:
            raise ValueError(
                f"patched: {missed} never passed by, so nothing was changed there. The module "
                "exists, but the forward pass does not go through it (or not that many times)."
            )

    def next_batch(self) -> None:
        """Count calls from 0 again, for sites `name@k` and `Context.call`."""
        self._counts.clear()

    def _pass(self, site: Site, call: int, value: Any) -> Any:
        old, mask = read(site, value, who="patched")
        new = self._patches[site.name](old, Context(site.name, call, site.module, mask))
        if not isinstance(new, Tensor) or new.shape != old.shape:
            what = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ValueError(
                f"patched: the function at {site.name!r} returned {what} for a value of shape "
                f"{tuple(old.shape)}; return a tensor of that shape."
            )
        self._changed.add(site.name)
        return value if new is old else write(site, value, new.to(old.dtype))


def patched(model: nn.Module, patches: Mapping[str, Patch]) -> Patched:
    """A block in which values at sites are what functions make of them.

    The model's mode, weights and gradients are left as they are; hooks are removed at the end of
    the block, also by an exception.

    Args:
        patches: Site to function of (value, context). Sites are those of `record`, with selections
            such as `blocks.1[token=3]`, of which the function sees and returns the selected part.
            Functions must not change their value in place.

    Raises:
        ValueError: A site does not exist (near misses are named), is in compiled code, belongs to
            a module of several names without saying which call, or was not reached in the block;
            a function returns another shape.
    """
    return Patched(model, patches)
