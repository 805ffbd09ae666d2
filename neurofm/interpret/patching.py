"""The write counterpart of `record`: change what passes through named places while a model runs.

    with patched(model, {"blocks.1": lambda value, context: value * 0}):
        model.encode(batch)

It is the one way in which interpretation changes a forward pass: patching, steering, ablation and
splicing in autoencoders are functions given to it. Gradients flow through what a function returns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from neurofm.interpret.places import Arguments, Site, find, read, write


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


class Patched:
    """Changes values at sites while it is open; use it through `patched`."""

    def __init__(self, model: nn.Module, patches: Mapping[str, Patch]) -> None:
        self._patches = [(find(model, name, who="patched"), f) for name, f in patches.items()]
        for site, f in self._patches:
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
        self._handles: list[Any] = []
        self._calls: Counter[str] = Counter()
        self._changed: set[str] = set()

    def __enter__(self) -> Patched:
        try:
            for site, f in self._patches:
                self._handles.append(self._attach(site, f))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        missed = [site.name for site, _ in self._patches if site.name not in self._changed]
        if error is None and missed:
            raise ValueError(
                f"patched: {missed} never passed by, so nothing was changed there. The module "
                "exists, but the forward pass does not go through it (or not that many times)."
            )

    def next_batch(self) -> None:
        """Count calls from 0 again, for sites `name@k` and `Context.call`."""
        self._calls.clear()

    def _close(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _attach(self, site: Site, f: Patch) -> Any:
        def change(value: Any) -> Any:
            call = self._calls[site.name]
            self._calls[site.name] += 1
            if site.call is not None and call != site.call:
                return value
            old, mask = read(site, value, who="patched")
            new = f(old, Context(site.name, call, site.module, mask))
            if not isinstance(new, Tensor) or new.shape != old.shape:
                what = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
                raise ValueError(
                    f"patched: the function at {site.name!r} returned {what} for a value of shape "
                    f"{tuple(old.shape)}; return a tensor of that shape."
                )
            self._changed.add(site.name)
            return value if new is old else write(site, value, new.to(old.dtype))

        if site.where == "output":
            return site.module.register_forward_hook(lambda _m, _a, output: change(output))

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            changed = change(Arguments(args, kwargs))
            return changed.positional, changed.named

        return site.module.register_forward_pre_hook(before, with_kwargs=True)


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
