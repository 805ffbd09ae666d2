"""Published weights of braindecode's networks: a file, a folder, or a repository of the hub.

A folder or repository is what braindecode's `save_pretrained` and the Hugging Face hub make:
`config.json` beside `model.safetensors` (or `pytorch_model.bin`, of which only tensors are read).
Loading is strict: what is missing, unknown or misshapen is listed. Pretrained networks come without
a head, or with a fresh one if that is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from neurofm import cards
from neurofm.batch import BrainModel
from neurofm.compat import optional
from neurofm.io.electrodes import positions_of, standard_name
from neurofm.io.expectations import expect
from neurofm.io.model_card import about
from neurofm.io.tensors import load_state, read_tensors, some

_NAMES = ("model.safetensors", "pytorch_model.bin")
_SIGNAL = ("n_chans", "n_times", "sfreq", "n_outputs", "chs_info", "input_window_seconds")
_MONTAGE = "standard_1005"


@cards.callable_from_cards
def load_braindecode(
    name: str,
    *,
    weights: str | Path | None = None,
    channels: Sequence[str] | None = None,
    n_times: int | None = None,
    n_outputs: int | None = None,
    new_head: bool = False,
    file: str | None = None,
    revision: str | None = None,
) -> BrainModel:
    """A pretrained network of braindecode for your channels and windows.

    Args:
        name: A model card whose class is `BraindecodeModel`, such as "labram".
        weights: A file of tensors; a folder with `config.json`; a repository of the Hugging Face
            hub ("owner/name"), or "hub" for the one the card names. None: random weights.
        channels: Names in order, in place of the card's. Networks that are built on places get
            them from the standard_1005 montage.
        n_times: Samples of a window, in place of the card's.
        n_outputs: Classes of a head; None for no head, and the one in the file is not loaded.
        new_head: The head of the file, if it has one, is not loaded: it stays random.
        file: Name of the weights inside a folder or repository that holds several.
        revision: Of the repository: branch, tag or commit.

    Returns:
        The model in evaluation mode; its `card` says where the weights came from.

    Raises:
        FileNotFoundError: No such card, file or folder, or no weights in it.
        ImportError: The hub was named and huggingface_hub is not installed.
        ConnectionError: The hub or the repository could not be reached.
        ValueError: A damaged file, another network's, or tensors that do not fit; the message
            lists them.
    """
    card = cards.read("models", name)
    if not str(card["class_path"]).endswith(".BraindecodeModel"):
        raise ValueError(
            f"load_braindecode: card {name!r} holds a {card['class_path']}. Use load_model."
        )
    arguments = dict(card["init_args"])
    if channels is not None:
        arguments |= {"channels": list(channels), "n_channels": len(channels)}
        if arguments.get("positions") is not None:
            arguments["positions"] = _places(channels)
    arguments["n_times"] = n_times or arguments["n_times"]
    arguments["n_outputs"] = n_outputs
    where = None
    if weights is not None:
        where, config = _find(card, name, weights, file=file, revision=revision)
        arguments["arguments"] = {
            **(arguments.get("arguments") or {}),
            **_architecture(config, arguments, where),
        }
    model: Any = cards.build({"class_path": card["class_path"], "init_args": arguments})
    if where is not None:
        state = model.rename_keys(read_tensors(where))
        if new_head:
            own = model.state_dict()
            state = {key: v for key, v in state.items() if not key.startswith(model.head)}
            state |= {key: v for key, v in own.items() if key.startswith(model.head)}
        load_state(model, state, where=f"{where} as {name}")
    expect(model, _about(card, arguments, weights), where=f"card {name}")
    return cast(BrainModel, cast(nn.Module, model).eval())


def _find(
    card: dict[str, Any], name: str, weights: str | Path, *, file: str | None, revision: str | None
) -> tuple[Path, dict[str, Any]]:
    """The file of tensors, and the `config.json` beside it if there is one."""
    source = card.get("source") or {}
    if weights == "hub":
        if "hub" not in source:
            raise ValueError(f"Card {name!r} names no repository of the hub (source: hub).")
        weights, file = source["hub"], file or source.get("file")
        revision = revision or source.get("revision")
    path = Path(weights)
    if not path.exists():
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(weights)) or path.suffix in (
            ".safetensors",
            ".pth",
            ".pt",
            ".bin",
        ):
            raise FileNotFoundError(f"{weights}: no such file or folder.")
        path = _download(str(weights), file, revision)
    if path.is_file():
        return path, {}
    config = path / "config.json"
    for candidate in (file,) if file else _NAMES:
        if (path / candidate).is_file():
            return path / candidate, _read_config(config)
    there = ", ".join(sorted(item.name for item in path.iterdir())) or "nothing"
    raise FileNotFoundError(
        f"{path}: holds no {file or ' or '.join(_NAMES)}; there is {there}. Name the file."
    )


def _download(repository: str, file: str | None, revision: str | None) -> Path:
    """A folder with the files of a repository of the hub."""
    hub = optional("huggingface_hub")
    patterns = ["config.json", *((file,) if file else _NAMES)]
    try:
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's client and its transport have many kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConnectionError(
            f"{repository}: not reached on the Hugging Face hub ({reason[0]}). Go online, look at "
            "the name, accept the terms of the repository if it has any, or download it elsewhere "
            "and give the folder."
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a complete JSON file ({error}).") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a mapping, found {type(config).__name__}.")
    return config


def _architecture(config: dict[str, Any], arguments: dict[str, Any], where: Path) -> dict[str, Any]:
    """Sizes in a config.json, which decide over those of the card: a repository per size.

    Raises:
        ValueError: It was made for another rate.
    """
    sfreq = config.get("sfreq")
    if sfreq is not None and abs(sfreq - arguments["sfreq"]) > 1e-3 * sfreq:
        raise ValueError(
            f"{where}: config.json says {sfreq:g} Hz, the card {arguments['sfreq']:g} Hz. It is "
            "another network's, or another card fits it."
        )
    own = arguments.get("arguments") or {}
    return {
        key: value
        for key, value in config.items()
        if key not in _SIGNAL and isinstance(value, int | float | list)
        if key not in own or isinstance(own[key], type(value))
        if not key.startswith(("return_", "final_layer", "encoder_only"))
    }


def _places(channels: Sequence[str]) -> list[list[float]]:
    """Template positions, metres."""
    found = positions_of([standard_name(name) for name in channels], _MONTAGE).tolist()
    unknown = [name for name, place in zip(channels, found, strict=True) if place[0] != place[0]]
    if unknown:
        raise ValueError(
            f"load_braindecode: {some(unknown)}: not in the {_MONTAGE} montage, and the network is "
            "built on places. Choose other channels, or build BraindecodeModel with positions."
        )
    return found


def _about(
    card: dict[str, Any], arguments: dict[str, Any], weights: str | Path | None
) -> dict[str, Any]:
    """The card's fields that describe the model, with what was asked for in place of its own."""
    found = about(card)
    expects = dict(found.get("expects") or {})
    if "channels" in expects and arguments.get("channels") is not None:
        expects["channels"] = list(arguments["channels"])
    origin = {} if weights is None else {"weights_from": str(weights)}
    return {**found, **origin, "expects": expects}
