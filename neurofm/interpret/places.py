"""Places inside a network: how they are written, found, read and written to.

A *site* is `path`, then optionally `:output` or `:input`, a part, a selection and a call:

    blocks.1                          output of that module
    blocks.1.attention:output.0       first element of a tuple there; `.values` a field or a key
    blocks.1:input.mask               argument of that name
    blocks.1[token=3]                 token or channel: the axis after window; a number or 2:6
    blocks.1[unit=1+4+9]              unit or time: the last axis; + lists several
    blocks.1.project:input[head=2/8]  the third of eight equal parts of the last axis
    blocks.1.act@1                    second call of a module that is used several times

Selections keep their axis and can be combined: `[token=3, head=2/8]`. `:input` alone is what the
model itself is given.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from neurofm.batch import Embedding, Tokens
from neurofm.interpret.activations import near_misses

_GRAMMAR = re.compile(
    r"(?P<path>[^:\[\]@]*)(:(?P<where>\w*)(\.(?P<part>[^\[\]@]+))?)?"
    r"(\[(?P<select>[^\]]*)\])?(@(?P<call>\d+))?"
)
H = TypeVar("H", bound="Hooked")
_FIRST, _LAST = ("token", "channel"), ("unit", "time", "head")


@dataclasses.dataclass(frozen=True)
class Site:
    """One place, found in a model.

    Args:
        path: Of the module, as in `nn.Module.named_modules`.
        where: "output" or "input".
        part: Of a value that is not one tensor.
        select: Pairs of the name of an axis and what is taken of it.
        call: Which call of the module; None for all.
        shared: Other paths of the same module.
    """

    name: str
    path: str
    module: nn.Module
    where: str
    part: str | None = None
    select: tuple[tuple[str, str], ...] = ()
    call: int | None = None
    shared: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What a module is called with."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


class Hooked(ABC):
    """Hooks at sites while a block is open; they are removed at its end, also by an exception."""

    def __init__(self, model: nn.Module, names: Sequence[str], *, who: str) -> None:
        self._sites = [find(model, name, who=who) for name in names]
        self._handles: list[Any] = []
        self._counts: Counter[str] = Counter()

    @abstractmethod
    def _pass(self, site: Site, call: int, value: Any) -> Any:
        """What goes on from a site in one of its calls."""

    def __enter__(self: H) -> H:
        try:
            for site in self._sites:
                self._handles.append(self._attach(site))
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
        if error is None:
            self._finish()

    @abstractmethod
    def _finish(self) -> None:
        """Done at the end of a block that no error ended."""

    def _close(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _attach(self, site: Site) -> Any:
        def seen(value: Any) -> Any:
            call = self._counts[site.name]
            self._counts[site.name] += 1
            return self._pass(site, call, value) if site.call in (None, call) else value

        if site.where == "output":
            return site.module.register_forward_hook(lambda _m, _a, output: seen(output))

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given = seen(Arguments(args, kwargs))
            return given.positional, given.named

        return site.module.register_forward_pre_hook(before, with_kwargs=True)


def names_of(sites: Sequence[str], *, who: str = "record", least: int = 1) -> list[str]:
    """Each site once, in the order given, checked to be a list of at least so many."""
    if isinstance(sites, str):
        raise TypeError(f"{who}: sites is the string {sites!r}; give a list of names.")
    names = list(dict.fromkeys(sites))
    if len(names) < least:
        raise ValueError(f"{who}: no site; name at least one, `sites(model)` lists them.")
    return names


def find(model: nn.Module, name: str, *, who: str = "record") -> Site:
    """The site of that name.

    Raises:
        ValueError: No such module (near misses are named), no site, or one in compiled code, where
            hooks do not fire.
    """
    match = _GRAMMAR.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{who}: {name!r} is no site. Write path, path:input, path:output.part, "
            "path[token=3] or path@1."
        )
    path, where = match["path"], match["where"]
    if where not in (None, "input", "output"):
        raise ValueError(f"{who}: {name!r}: after the colon comes input or output, not {where!r}.")
    modules = dict(model.named_modules(remove_duplicate=False))
    if path not in modules:
        raise ValueError(
            f"{who}: {type(model).__name__} has no module {path!r}."
            f"{near_misses(path, [m for m in modules if m])} "
            f"`sites(model)` lists all {len(modules) - 1}."
        )
    _refuse_compiled(modules, path, who)
    module = modules[path]
    return Site(
        name=name,
        path=path,
        module=module,
        where=where or "output",
        part=match["part"],
        select=_selection(name, match["select"], who),
        call=None if match["call"] is None else int(match["call"]),
        shared=tuple(k for k, m in modules.items() if m is module and k != path),
    )


def _refuse_compiled(modules: Mapping[str, nn.Module], path: str, who: str) -> None:
    parts = path.split(".") if path else []
    for k in range(len(parts) + 1):
        above = ".".join(parts[:k])
        module = modules[above]
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        compiled = compiled or type(module).__name__ == "OptimizedModule"
        if compiled or isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{who}: {path or 'the model'!r} is in compiled code ({above or 'the model'}, "
                f"{type(module).__name__}), where hooks do not fire reliably. Use the module "
                "before compilation, which has the same weights: after torch.compile it is "
                "`._orig_mod`."
            )


def _selection(name: str, text: str | None, who: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for piece in (text or "").split(",") if text is not None else ():
        axis, _, what = piece.strip().partition("=")
        number = r"\d+/\d+" if axis == "head" else r"-?\d+(\+-?\d+)*|-?\d*:-?\d*"
        if axis not in _FIRST + _LAST or not re.fullmatch(number, what):
            raise ValueError(
                f"{who}: {name!r}: {piece.strip()!r} selects nothing. Write token=3, channel=2:6, "
                "unit=1+4+9, time=0:100 or head=2/8 (the third of eight)."
            )
        pairs.append((axis, what))
    return tuple(pairs)


def index(site: Site, shape: Sequence[int], *, who: str = "record") -> tuple[Any, ...]:
    """Index of what the site selects of a value of this shape; every axis is kept."""
    taken: list[Any] = [slice(None)] * len(shape)
    lists = []
    for axis, what in site.select:
        at = 1 if axis in _FIRST else len(shape) - 1
        if len(shape) < 2 or taken[at] != slice(None):
            raise ValueError(
                f"{who}: {site.name!r}: the value has shape {tuple(shape)}, which has no axis of "
                f"its own for {axis!r}."
            )
        size = shape[at]
        if axis == "head":
            which, count = map(int, what.split("/"))
            if size % count or which >= count:
                raise ValueError(
                    f"{who}: {site.name!r}: head {which} of {count} (counted from 0) in an axis "
                    f"of {size}, which has to be a multiple."
                )
            taken[at] = slice(which * size // count, (which + 1) * size // count)
        elif ":" in what:
            low, _, high = what.partition(":")
            taken[at] = slice(int(low) if low else None, int(high) if high else None)
        else:
            chosen = [int(k) for k in what.split("+")]
            outside = [k for k in chosen if not -size <= k < size]
            if outside:
                raise ValueError(f"{who}: {site.name!r}: no {axis} {outside[0]} of {size}.")
            chosen = [k % size for k in chosen]
            if len(chosen) == 1:
                taken[at] = slice(chosen[0], chosen[0] + 1)
            else:
                taken[at] = chosen
                lists.append(at)
    if len(lists) == 2:  # two lists would be read as pairs
        first, last = (torch.as_tensor(taken[at]) for at in lists)
        taken[1] = first.reshape(-1, *[1] * (len(shape) - 2))
        between = [torch.arange(n) for n in shape[2:-1]]
        for k, places in enumerate(between, start=2):
            taken[k] = places.reshape(-1, *[1] * (len(shape) - 1 - k))
        taken[-1] = last
    return tuple(taken)


def read(site: Site, value: Any, *, who: str = "record") -> tuple[Tensor, Tensor | None]:
    """The tensor a site asks for, and which of its tokens are real if the value says so."""
    whole, mask = _whole(site, value, who)
    if not site.select:
        return whole, mask
    taken = index(site, whole.shape, who=who)
    if mask is not None and mask.ndim == 2:
        mask = mask[:, taken[1].flatten() if isinstance(taken[1], Tensor) else taken[1]]
    return whole[taken], mask


def write(site: Site, value: Any, new: Tensor, *, who: str = "patched") -> Any:
    """The value with the site's tensor replaced; nothing is changed in place."""
    if not site.select:
        return _put(site, value, new)
    whole, _ = _whole(site, value, who)
    changed = whole.clone()
    changed[index(site, whole.shape, who=who)] = new
    return _put(site, value, changed)


def _whole(site: Site, value: Any, who: str) -> tuple[Tensor, Tensor | None]:
    if isinstance(value, Arguments):
        key = _argument(site, value, who)
        value = value.positional[key] if isinstance(key, int) else value.named[key]
    elif site.part is not None:
        value = _part(site, value, who)
    mask = value.mask if isinstance(value, Tokens | Embedding) else None
    inner = _inner(value)
    value = value if inner is None else _get(value, inner)
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{who}: the value at {site.name!r} is {_describe(value)}, not one tensor. Select a "
            f"part, such as '{site.path}:{site.where}.0'."
        )
    return value, mask


def _put(site: Site, value: Any, new: Tensor) -> Any:
    if isinstance(value, Arguments):
        key = _argument(site, value, "patched")
        if isinstance(key, str):
            return Arguments(value.positional, {**value.named, key: _inside(value.named[key], new)})
        changed = list(value.positional)
        changed[key] = _inside(changed[key], new)
        return Arguments(tuple(changed), value.named)
    if site.part is not None:
        key = int(site.part) if isinstance(value, tuple | list) else site.part
        return _set(value, key, _inside(_get(value, key), new))
    return _inside(value, new)


def _inside(value: Any, new: Tensor) -> Any:
    """A value with its one tensor replaced."""
    inner = _inner(value)
    return new if inner is None else _set(value, inner, new)


def _inner(value: Any) -> str | int | None:
    """Where the one tensor of a value is; None if the value is the tensor."""
    if isinstance(value, Tokens):
        return "values"
    if isinstance(value, Embedding):
        return "tokens"
    if isinstance(value, tuple | list):
        places = [k for k, v in enumerate(value) if isinstance(v, Tensor)]
        return places[0] if len(places) == 1 else None
    return None


def _get(value: Any, key: str | int) -> Any:
    if isinstance(value, Mapping) or isinstance(key, int):
        return value[key]
    return getattr(value, key)


def _set(value: Any, key: str | int, new: Any) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_replace"):  # a named tuple
        named: Any = value
        return named._replace(**{named._fields[int(key)]: new})
    if isinstance(value, tuple | list):
        changed = list(value)
        changed[int(key)] = new
        return type(value)(changed)
    if isinstance(value, dict):
        # Outputs of transformers are dictionaries with attributes: copied with their class.
        other: dict[Any, Any] = value.copy() if type(value) is dict else type(value)(**value)
        other[key] = new
        return other
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{str(key): new})
    raise TypeError(f"patched: a {type(value).__name__} cannot be given another {key!r}.")


def _argument(site: Site, given: Arguments, who: str) -> str | int:
    key = site.part
    if key is None:
        if given.positional:
            return 0
        if given.named:
            return next(iter(given.named))
        raise ValueError(f"{who}: {site.name!r} was called without arguments.")
    if key.isdigit() and int(key) < len(given.positional):
        return int(key)
    if key in given.named:
        return key
    raise ValueError(
        f"{who}: {site.name!r}: the call has {len(given.positional)} positional arguments "
        f"and the named ones {sorted(given.named)}."
    )


def _part(site: Site, value: Any, who: str) -> Any:
    key = site.part or ""
    if isinstance(value, Mapping) and key in value:
        return value[key]
    if isinstance(value, tuple | list) and key.isdigit() and int(key) < len(value):
        return value[int(key)]
    if not isinstance(value, Tensor) and hasattr(value, key):
        return getattr(value, key)
    raise ValueError(f"{who}: {site.name!r}: the value there is {_describe(value)}.")


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with keys {sorted(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {[type(v).__name__ for v in value]}"
    return f"a {type(value).__name__}"
