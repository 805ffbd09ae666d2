"""Cards: one YAML file that names a class by import path and its arguments. Data, never code.

`root(kind)` finds the folder (`datasets`, `models`, `recipes`), `names` lists it, `read` parses
one, `build` makes the object. There is no registry: a card's name is its file name, a class's name
is its import path.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

KINDS = ("datasets", "models", "recipes")
REQUIRED = {
    "datasets": ("description", "license", "citation", "modality", "reader"),
    "models": ("description", "license", "class_path", "init_args"),
    "recipes": (),
}
_Class = TypeVar("_Class", bound=type)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def root(kind: str) -> Path:
    """Folder of the cards of one kind: inside the installed package, else in the checkout."""
    if kind not in KINDS:
        raise ValueError(f"cards: kind {kind!r} is not one of {KINDS}.")
    package = Path(__file__).parent
    installed = package / "_cards" / kind
    return installed if installed.is_dir() else package.parent / kind


def names(kind: str) -> list[str]:
    """Names of all cards (and, for recipes, notebooks) of a kind."""
    found = {path.stem for path in root(kind).glob("*.yaml")}
    if kind == "recipes":
        found |= {path.stem for path in root(kind).glob("*.ipynb")}
    return sorted(found)


def path(kind: str, name: str) -> Path:
    """File of a card.

    Args:
        name: A card's name, or a path to a YAML file of the user's own.

    Raises:
        FileNotFoundError: No such card; the message names near misses.
    """
    own = Path(name)
    if own.suffix in {".yaml", ".yml"}:
        if not own.is_file():
            raise FileNotFoundError(f"{kind[:-1]} card {name}: no such file.")
        return own
    for suffix in (".yaml", ".ipynb"):
        candidate = root(kind) / f"{name}{suffix}"
        if candidate.is_file():
            return candidate
    near = difflib.get_close_matches(name, names(kind), n=3, cutoff=0.4)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    raise FileNotFoundError(
        f"There is no {kind[:-1]} called {name!r}.{hint} `neurofm list {kind}` shows all."
    )


def read(kind: str, name: str) -> dict[str, Any]:
    """One card as a dict, checked for its required fields.

    Raises:
        ValueError: Not a mapping, not plain YAML, or a required field is missing.
    """
    file = path(kind, name)
    try:
        card = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(
            f"{file}: not plain YAML ({error}). Cards hold data, never code."
        ) from error
    if not isinstance(card, dict):
        raise ValueError(f"{file}: expected a mapping at the top, found {type(card).__name__}.")
    if kind == "models" and not isinstance(card.get("init_args", {}), dict):
        raise ValueError(f"{file}: init_args is {card['init_args']!r}, expected a mapping.")
    missing = [key for key in REQUIRED[kind] if key not in card]
    if missing:
        raise ValueError(f"{file}: missing {', '.join(missing)}. See {root(kind) / 'README.md'}.")
    return card


def load_class(class_path: str, *, trusted: tuple[str, ...] = ("neurofm",)) -> Any:
    """The class or function at an import path.

    A file must not choose what code runs: most functions, called with chosen arguments, can do
    harm. So functions must be `callable_from_cards`.

    Args:
        trusted: Top-level packages that may be imported.

    Raises:
        ValueError: The package is not trusted, the path names nothing, or what it names is from
            another package or a function that is not for cards.
    """
    module, _, name = class_path.rpartition(".")
    if class_path.split(".", 1)[0] not in trusted:
        raise ValueError(
            f"class_path {class_path!r} is outside {', '.join(trusted)}. Pass `trusted=` with your "
            "package's name if you wrote this file yourself."
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"class_path {class_path!r} cannot be imported: {error}.{near_classes(class_path)}"
        ) from error
    own = str(getattr(found, "__module__", "")).split(".", 1)[0] in trusted
    if not own or not (inspect.isclass(found) or hasattr(found, "_for_cards")):
        raise ValueError(
            f"class_path {class_path!r} is no class of {', '.join(trusted)}. Functions are called "
            "only if they are decorated with `cards.callable_from_cards`."
        )
    return found


def near_classes(class_path: str) -> str:
    """Sentence with the classes of the same module that are spelled much alike, or nothing."""
    module, _, name = class_path.rpartition(".")
    there = dir(sys.modules[module]) if module in sys.modules else []
    known = {key.lower(): key for key in there if key[:1].isupper()}
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return f" Did you mean {', '.join(known[found] for found in near)}?" if near else ""


def build(spec: Any, *, trusted: tuple[str, ...] = ("neurofm",), written: bool = False) -> Any:
    """The object a spec describes; nested `class_path`/`init_args` are built first.

    Args:
        trusted: Packages whose classes may be named.
        written: The spec comes from a file that a program wrote and anybody may have changed: take
            `configured` classes alone, which is all that `spec_of` writes.

    Raises:
        ValueError: A class that may not be named, or arguments that it does not take.
    """
    if isinstance(spec, dict) and "class_path" in spec:
        given = spec.get("init_args") or {}
        if not isinstance(spec["class_path"], str) or not isinstance(given, dict):
            raise ValueError(f"class_path {spec['class_path']!r}: expected a name, and a mapping.")
        made = load_class(spec["class_path"], trusted=trusted)
        if written and not vars(made).get("_configured"):
            raise ValueError(
                f"class_path {spec['class_path']!r} is no class that a file of a model may name: "
                "it is not decorated with `cards.configured`."
            )
        arguments = {k: build(v, trusted=trusted, written=written) for k, v in given.items()}
        try:
            return made(**arguments)
        except ValueError:
            raise
        except Exception as error:
            if isinstance(error, TypeError) or written:  # a damaged value may lead to any error
                near = _near_arguments(made, arguments)
                raise ValueError(f"{spec['class_path']}: {error}{near}") from error
            raise
    if isinstance(spec, list):
        return [build(item, trusted=trusted, written=written) for item in spec]
    return spec


def _near_arguments(made: Any, given: Mapping[str, Any]) -> str:
    """Names like those of arguments that it does not take."""
    known = inspect.signature(made).parameters
    if any(parameter.kind in _VARIADIC for parameter in known.values()):
        return ""
    near = [n for k in given if k not in known for n in difflib.get_close_matches(k, known, n=2)]
    return f". Did you mean {', '.join(near)}?" if near else ""


def callable_from_cards(function: _Function) -> _Function:
    """Function decorator: cards may call it, with any arguments, and nothing bad can happen."""
    function._for_cards = True  # type: ignore[attr-defined]
    return function


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def configured(cls: _Class) -> _Class:
    """Class decorator: remember the constructor's arguments, so that `spec_of` can write them down.

    The constructor signature stays the configuration; nothing is written twice.
    """
    original: Callable[..., None] = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = {
            name: value
            for name, value in list(bound.arguments.items())[1:]
            # A class without a constructor inherits one that takes anything.
            if signature.parameters[name].kind not in _VARIADIC
        }
        original(self, *args, **kwargs)
        if type(self) is cls:
            object.__setattr__(self, "_arguments", arguments)

    cls.__init__ = init  # type: ignore[misc]
    cls._configured = True  # type: ignore[attr-defined]
    return cls


def spec_of(value: Any) -> Any:
    """The `class_path`/`init_args` that build an equal object; plain data come back unchanged."""
    if hasattr(value, "_arguments"):
        cls = type(value)
        module = cls.__module__
        package = ".".join(module.split(".")[:2])
        public = getattr(importlib.import_module(package), cls.__name__, None)
        where = package if public is cls else module
        return {
            "class_path": f"{where}.{cls.__name__}",
            "init_args": {key: spec_of(item) for key, item in value._arguments.items()},
        }
    if isinstance(value, (list, tuple)):
        return [spec_of(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: spec_of(item) for key, item in value.items()}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(
        f"spec_of: {type(value).__name__} has no recorded arguments; decorate it with `configured`."
    )
