"""Recordings of open corpora, through clients that exist: what `neurofm fetch` does.

A card's `fetch` names the client: MNE's for EEGMMIDB, MOABB, openneuro-py, huggingface_hub, or
plain https with published hashes. Files arrive in the layout the card's reader expects, whole or
not at all; a web page or a pointer of git-annex or git-lfs is never kept as data.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from neurofm import cards
from neurofm.compat import optional
from neurofm.io.download import Progress, check_arrived, download, nothing
from neurofm.io.integrity import check_file
from neurofm.io.quality import listed
from neurofm.io.readers import compile_pattern
from neurofm.io.rules import same_entity

CLIENTS = ("eegbci", "moabb", "openneuro", "huggingface", "https")
_NEEDED = {
    "moabb": ("dataset",),
    "openneuro": ("dataset",),
    "huggingface": ("repository",),
}
_SUM = re.compile(r"([0-9a-fA-F]{64})\s+\*?(.+)")


def data_home() -> Path:
    """Folder of all corpora: `$NEUROFM_DATA`, else `neurofm_data` in the home folder."""
    given = os.environ.get("NEUROFM_DATA")
    return Path(given) if given else Path.home() / "neurofm_data"


def client_of(card: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """How a card says its corpus is fetched: the client and its arguments.

    Raises:
        ValueError: It names no client, an unknown one, or not what the client needs.
    """
    spec = card.get("fetch")
    if spec is None:
        raise ValueError(
            f"{where}: its card names no fetcher; get the recordings from "
            f"{card.get('url', 'the publisher')}."
        )
    spec = {"client": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, Mapping) or spec.get("client") not in CLIENTS:
        raise ValueError(
            f"{where}: `fetch` is {spec!r}; its client is one of {', '.join(CLIENTS)}."
        )
    missing = [key for key in _NEEDED.get(spec["client"], ()) if key not in spec]
    if spec["client"] == "https" and not ("files" in spec or {"base", "sums"} <= set(spec)):
        missing = ["files, or base and sums"]
    if missing:
        raise ValueError(f"{where}: `fetch` with {spec['client']} needs {', '.join(missing)}.")
    return dict(spec)


def fetch(
    name: str,
    *,
    subjects: Sequence[str | int] | None = None,
    runs: Sequence[str | int] | None = None,
    root: Path | None = None,
    progress: Progress = nothing,
) -> list[Path]:
    """Download recordings of an open corpus into the card's layout.

    A file already there is kept; one that arrives is checked before it takes its name.

    Args:
        name: Card with a `fetch` field.
        subjects: As the publisher names or counts them; all if None.
        runs: Only these; of clients that know single files.
        root: As in `open_corpus`.
        progress: Called as bytes arrive, by the https client.

    Returns:
        Files of recordings, sorted.

    Raises:
        ValueError: The card names no fetcher, or what arrived is not data.
        ImportError: The client's package is not installed; the message names the extra.
    """
    card = cards.read("datasets", name)
    spec = client_of(card, where=name)
    folder = card.get("folder", cards.path("datasets", name).stem)
    root = data_home() / folder if root is None else Path(root)
    clients: dict[str, Callable[..., list[Path]]] = {
        "eegbci": _eegbci,
        "moabb": _moabb,
        "openneuro": _openneuro,
        "huggingface": _huggingface,
        "https": _https,
    }
    paths = clients[spec["client"]](
        card, spec, root=root, subjects=subjects, runs=runs, progress=progress
    )
    return sorted(paths)


def _pattern(card: Mapping[str, Any]) -> str:
    arguments = card["reader"].get("init_args") or {}
    return str(arguments.get("files", arguments).get("pattern", ""))


def _wanted(
    card: Mapping[str, Any],
    path: str,
    subjects: Sequence[str | int] | None,
    runs: Sequence[str | int] | None,
) -> bool:
    """Whether a path is a recording of the card that was asked for."""
    match = compile_pattern(_pattern(card)).fullmatch(path)
    if match is None:
        return False
    found = match.groupdict()
    for value, chosen in ((found.get("subject"), subjects), (found.get("run"), runs)):
        if chosen is not None and not any(same_entity(item, value) for item in chosen):
            return False
    return True


def _eegbci(
    card: Mapping[str, Any],
    spec: Mapping[str, Any],
    *,
    root: Path,
    subjects: Sequence[str | int] | None,
    runs: Sequence[str | int] | None,
    progress: Progress,
) -> list[Path]:
    expected = card.get("expected") or {}
    chosen = range(1, int(expected["subjects"]) + 1) if subjects is None else subjects
    every = range(1, int(expected["runs"]) + 1) if runs is None else runs
    paths = []
    for subject in map(int, chosen):
        for run in map(int, every):
            target = root / _pattern(card).format(subject=f"{subject:03d}", run=f"{run:02d}")
            if not target.exists():
                _eegbci_one(subject, run, target)
            paths.append(target)
    return paths


def _eegbci_one(subject: int, run: int, target: Path) -> None:
    import mne

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        (arrived,) = mne.datasets.eegbci.load_data(
            [subject], [run], path=folder, update_path=False, verbose="ERROR"
        )
        _put(Path(arrived), target)


def _put(arrived: Path, target: Path) -> None:
    """Copy a checked file to its place, atomically."""
    check_file(arrived)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(arrived, part)
    os.replace(part, target)


def _moabb(
    card: Mapping[str, Any],
    spec: Mapping[str, Any],
    *,
    root: Path,
    subjects: Sequence[str | int] | None,
    runs: Sequence[str | int] | None,
    progress: Progress,
) -> list[Path]:
    """MOABB keeps its own cache; files are copied from there to where the card looks for them."""
    name = str(spec["dataset"])
    dataset = getattr(optional("moabb.datasets"), name, None)
    if dataset is None:
        raise ValueError(f"MOABB has no data set {name!r}; it may have been renamed.")
    client = dataset()
    chosen = client.subject_list if subjects is None else [int(item) for item in subjects]
    expression = compile_pattern(_pattern(card))
    paths = []
    for subject in chosen:
        given = client.data_path(subject)
        for path in map(Path, [given] if isinstance(given, (str, os.PathLike)) else given):
            place = _place(path, expression)
            if place is None:
                raise ValueError(
                    f"{path}: MOABB's file of {name} does not fit the card's pattern "
                    f"{_pattern(card)!r}."
                )
            target = root / place
            if not target.exists():
                _put(path, target)
            paths.append(target)
    return paths


def _place(path: Path, expression: re.Pattern[str]) -> str | None:
    """The shortest end of a path that fits the pattern."""
    for n in range(1, len(path.parts)):
        end = "/".join(path.parts[-n:])
        if expression.fullmatch(end):
            return end
    return None


def _openneuro(
    card: Mapping[str, Any],
    spec: Mapping[str, Any],
    *,
    root: Path,
    subjects: Sequence[str | int] | None,
    runs: Sequence[str | int] | None,
    progress: Progress,
) -> list[Path]:
    include = None
    if subjects is not None:
        include = [f"sub-{str(item).removeprefix('sub-')}" for item in subjects]
        include += ["*.json", "*.tsv"]
    optional("openneuro").download(
        dataset=spec["dataset"], target_dir=str(root), include=include, tag=spec.get("tag")
    )
    return _arrived(root)


def _huggingface(
    card: Mapping[str, Any],
    spec: Mapping[str, Any],
    *,
    root: Path,
    subjects: Sequence[str | int] | None,
    runs: Sequence[str | int] | None,
    progress: Progress,
) -> list[Path]:
    hub = optional("huggingface_hub")
    files = hub.HfApi().list_repo_files(spec["repository"], repo_type="dataset")
    chosen = [file for file in files if _wanted(card, file, subjects, runs)]
    if not chosen:
        raise ValueError(
            f"{spec['repository']}: no file fits the card's pattern {_pattern(card)!r}"
            f"{' and what was asked for' if subjects or runs else ''}."
        )
    paths = []
    for file in chosen:
        got = hub.hf_hub_download(
            spec["repository"], file, repo_type="dataset", local_dir=str(root)
        )
        check_arrived(Path(got))
        paths.append(Path(got))
    return paths


def _arrived(root: Path) -> list[Path]:
    """What a client left in a folder, checked; hidden files are the client's own."""
    paths = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]
    for path in paths:
        check_arrived(path)
    return paths


def _https(
    card: Mapping[str, Any],
    spec: Mapping[str, Any],
    *,
    root: Path,
    subjects: Sequence[str | int] | None,
    runs: Sequence[str | int] | None,
    progress: Progress,
) -> list[Path]:
    if "files" in spec:
        paths = []
        for file in spec["files"]:
            target = root / _inside(str(file["path"]))
            if "sha256" not in file:
                raise ValueError(f"{file['url']}: a file of a card needs its sha256.")
            size = file.get("size")
            download(file["url"], target, sha256=file["sha256"], size=size, progress=progress)
            paths += _unpack(target, root, file["unpack"]) if "unpack" in file else [target]
        return paths
    base = str(spec["base"]).rstrip("/")
    sums = _read_sums(download(f"{base}/{spec['sums']}", root / spec["sums"], progress=progress))
    chosen = _with_companions(card, list(sums), subjects, runs)
    if not chosen:
        raise ValueError(
            f"{base}: none of its {len(sums)} files fits the card's pattern {_pattern(card)!r} and "
            "what was asked for."
        )
    return [
        download(f"{base}/{quote(name)}", root / name, sha256=sums[name], progress=progress)
        for name in chosen
    ]


def _with_companions(
    card: Mapping[str, Any],
    files: Sequence[str],
    subjects: Sequence[str | int] | None,
    runs: Sequence[str | int] | None,
) -> list[str]:
    """Recordings that were asked for, with the files of their events."""
    expression = compile_pattern(_pattern(card))
    beside = (card["reader"].get("init_args") or {}).get("annotations")
    chosen: dict[str, None] = {}
    for file in files:
        if not _wanted(card, file, subjects, runs):
            continue
        chosen[file] = None
        match = expression.fullmatch(file)
        if beside is not None and match is not None:
            place = PurePosixPath(file)
            values = {**match.groupdict(), "folder": str(place.parent), "stem": place.stem}
            wanted = _filled(str(beside), values)
            chosen.update(dict.fromkeys(fnmatch.filter(files, wanted)))
    return list(chosen)


def _filled(template: str, values: Mapping[str, str | None]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1]) or "*", template)


def _read_sums(path: Path) -> dict[str, str]:
    """Lines of `sha256sum`: path -> hash."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    matches = [_SUM.fullmatch(line.strip()) for line in lines]
    if not lines or not all(matches):
        raise ValueError(f"{path}: not a list of SHA-256 sums. Remove it and fetch again.")
    return {_inside(m[2].removeprefix("./")): m[1] for m in matches if m is not None}


def _inside(name: str) -> str:
    """A path of a list, which must stay below the corpus's folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith(("/", "~")) or ".." in parts or "\\" in name:
        raise ValueError(f"{name!r} is not a path below the corpus's folder.")
    return name


def _unpack(archive: Path, root: Path, folder: str) -> list[Path]:
    """Unpack what an archive holds below `folder`; the archive stays."""
    paths = []
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                if member.is_dir() or not member.filename.startswith(f"{folder}/"):
                    continue
                target = root / _inside(member.filename.removeprefix(f"{folder}/"))
                if not (target.exists() and target.stat().st_size == member.file_size):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    part = target.with_name(f".{target.name}.part")
                    with opened.open(member) as source, open(part, "wb") as file:
                        shutil.copyfileobj(source, file)
                    os.replace(part, target)
                paths.append(target)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive}: not a whole archive ({error}). Fetch it again.") from error
    if not paths:
        raise ValueError(f"{archive}: holds nothing below {listed([folder])}.")
    return paths
