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
from collections.abc import Callable
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
    missing = [key for key in REQUIRED[kind] if key not in card]
    if missing:
        raise ValueError(f"{file}: missing {', '.join(missing)}. See {root(kind) / 'README.md'}.")
    return card


def load_class(class_path: str, *, trusted: tuple[str, ...] = ("neurofm",)) -> Any:
    """The class or function at an import path.

    Args:
        trusted: Top-level packages that may be imported: a file must not choose what code runs.

    Raises:
        ValueError: The package is not trusted, or the path names nothing.
    """
    module, _, name = class_path.rpartition(".")
    if class_path.split(".", 1)[0] not in trusted:
        raise ValueError(
            f"class_path {class_path!r} is outside {', '.join(trusted)}. Pass `trusted=` with your "
            "package's name if you wrote this file yourself."
        )
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"class_path {class_path!r} cannot be imported: {error}") from error


def build(spec: Any, *, trusted: tuple[str, ...] = ("neurofm",)) -> Any:
    """The object a spec describes; nested `class_path`/`init_args` are built first."""
    if isinstance(spec, dict) and "class_path" in spec:
        arguments = {
            key: build(value, trusted=trusted)
            for key, value in (spec.get("init_args") or {}).items()
        }
        made = load_class(spec["class_path"], trusted=trusted)
        try:
            return made(**arguments)
        except TypeError as error:
            raise ValueError(f"{spec['class_path']}: {error}") from error
    if isinstance(spec, list):
        return [build(item, trusted=trusted) for item in spec]
    return spec


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
        arguments = dict(list(bound.arguments.items())[1:])
        original(self, *args, **kwargs)
        if type(self) is cls:
            object.__setattr__(self, "_arguments", arguments)

    cls.__init__ = init  # type: ignore[misc]
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
