"""Models as folders that others load: on a disk, or in a repository of the Hugging Face hub.

A folder holds `model.safetensors` (what `save_model` writes), `config.json` (the same description,
readable by eye; written last, so that an interrupted save leaves nothing that loads) and a model
card, `README.md`, made from the description. The hub is reached through huggingface_hub, an extra.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from neurofm.compat import optional
from neurofm.io.checkpoint import load_model, load_tokenizer, read_card, save_model
from neurofm.types import Result

WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    results: Sequence[Result] = (),
    **fields: Any,
) -> Path:
    """Write a model as a folder for `from_pretrained`.

    Args:
        model: Of a class decorated with `cards.configured`.
        folder: Made if missing; an earlier model in it is replaced.
        results: Lines of the model card's table of results.
        fields: As of `save_model`: `license`, `citation`, `description`, `expects`.

    Returns:
        The folder.

    Raises:
        ValueError: As `save_model`; or `results` that are none.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"save_pretrained: {folder} is a file, expected a folder.")
    if any(not isinstance(result, Result) for result in results):
        raise ValueError(
            f"save_pretrained: results are {results!r}, expected a list of neurofm.Result(name, "
            "value, unit, low, high)."
        )
    if results:
        fields["results"] = [{k: v for k, v in asdict(r).items() if v is not None} for r in results]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    card = read_card(save_model(model, folder / WEIGHTS, **fields))
    _write(folder / README, model_card(card, folder.name))
    _write(folder / CONFIG, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return folder


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    trusted: tuple[str, ...] = ("neurofm",),
) -> Any:
    """A model or tokenizer from a folder of `save_pretrained`, or from the hub.

    Args:
        name: A folder, or a repository as `owner/name`.
        revision: Branch, tag or commit of the repository; a commit is always the same model.
        token: For private repositories; otherwise what `hf auth login` stored.
        trusted: Packages whose classes the file may name.

    Returns:
        In evaluation mode, checked as `load_model` does.

    Raises:
        FileNotFoundError: No such folder, or no finished model in it.
        ImportError: A repository is named and huggingface_hub is not installed.
        OSError: The repository cannot be fetched.
        ValueError: Damaged, or its files do not belong together.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _fetch(str(name), revision=revision, token=token)
    elif revision is not None:
        raise ValueError(f"from_pretrained: {name} is a folder, which has no revision {revision}.")
    for needed in (CONFIG, WEIGHTS):
        if not (folder / needed).is_file():
            raise FileNotFoundError(
                f"{folder}: no {needed}. It is no folder of save_pretrained, or saving was "
                "interrupted: save the model again."
            )
    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            raise ValueError(f"a {type(said).__name__}, expected a mapping")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / CONFIG}: not JSON ({error}). Save the model again.") from error
    card = read_card(folder / WEIGHTS)
    if said != card:
        keys = [key for key in {**card, **said} if said.get(key) != card.get(key)]
        raise ValueError(
            f"{folder}: {CONFIG} and {WEIGHTS} disagree about {', '.join(sorted(keys))}: they come "
            "from two models, or one was edited. Save the model again."
        )
    file = folder / WEIGHTS
    try:
        return load_model(file, trusted=trusted)
    except ValueError as error:
        if "no brain model" not in str(error):
            raise
    return load_tokenizer(file, trusted=trusted)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Save a model with neurofm",
    results: Sequence[Result] = (),
    **fields: Any,
) -> str:
    """Put a model into a repository of the hub, in one commit.

    Args:
        repo_id: `owner/name`; the repository is made if there is none.
        private: Whether a new repository is private.
        token: Otherwise what `hf auth login` stored.
        revision: Branch; the main one if not given.
        message: Of the commit.
        results: As of `save_pretrained`; so `fields`.

    Returns:
        Address of the commit.

    Raises:
        ImportError: huggingface_hub is not installed.
        OSError: The hub refuses, or cannot be reached; nothing is changed there.
    """
    hub = optional("huggingface_hub")
    _check_name(repo_id)
    folder = Path(tempfile.mkdtemp(prefix="neurofm-hub-"))
    try:
        save_pretrained(model, folder / repo_id.split("/")[1], results=results, **fields)
        api = hub.HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True, repo_type="model")
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder / repo_id.split("/")[1]),
            revision=revision,
            commit_message=message,
            repo_type="model",
        )
    except OSError as error:
        raise OSError(
            f"push_to_hub: {repo_id}: {error}. Log in with `hf auth login` or give a token that "
            "may write there."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return str(getattr(commit, "commit_url", commit))


def model_card(card: Mapping[str, Any], name: str) -> str:
    """README of a model, with the header that the hub reads, from a file's description."""
    header = {
        "library_name": "neurofm",
        "tags": ["neurofm", *((card["expects"].get("kinds")) or [])],
        **({"license": str(card["license"]).lower()} if card.get("license") else {}),
    }
    expects = {k: v for k, v in card["expects"].items() if v is not None}
    amplitude = card["statistics"]["amplitude"]
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False).strip(),
        "---",
        f"# {name}",
        str(card.get("description") or "A model of neurofm."),
        f"```python\nimport neurofm\nmodel = neurofm.from_pretrained({name!r})\n```",
        "## What it expects",
        *([_table(("field", "value"), expects.items())] if expects else ["Nobody stated it."]),
        "## What it was trained on",
        f"{card['seen']} recordings, named in the file so that a test on them is refused.",
        *[_table(("field", "value"), part.items()) for part in card.get("trained_on") or []],
    ]
    if amplitude:
        rows = [(kind, v["median"], v.get("spread", "")) for kind, v in amplitude.items()]
        head = ("kind", "median amplitude of a channel", "spread")
        lines.append(_table(head, rows) + "\n\nStandard deviation of a window, in its unit.")
    if card.get("results"):
        columns = ("name", "value", "unit", "low", "high", "n", "chance")
        found = [tuple(r.get(key, "") for key in columns) for r in card["results"]]
        lines += ["## Results", _table(columns, found)]
    lines += ["## Licence and citation", f"Licence: {card.get('license') or 'not stated'}."]
    lines.append(str(card.get("citation") or "No citation was given."))
    versions = ", ".join(f"{k} {v}" for k, v in card["versions"].items())
    lines.append(f"`{card['class_path']}`, written by {versions}.")
    return "\n\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Any) -> str:
    def cell(value: Any) -> str:
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        return text.replace("|", "/").replace("\n", " ")

    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def _fetch(name: str, *, revision: str | None, token: str | None) -> Path:
    _check_name(name)
    hub = optional("huggingface_hub")
    try:
        found = hub.snapshot_download(
            name, revision=revision, token=token, allow_patterns=[WEIGHTS, CONFIG, README]
        )
    except OSError as error:
        raise OSError(
            f"from_pretrained: {name} cannot be fetched ({error}). Check the name and the "
            "revision; private repositories need `hf auth login` or a token."
        ) from error
    return Path(found)


def _check_name(name: str) -> None:
    # A name becomes part of a path: no parent folder, no blank, no drive.
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise FileNotFoundError(
            f"{name}: no such folder, and not the name of a repository (owner/name). Cards are "
            "loaded by neurofm.load_model."
        )


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
