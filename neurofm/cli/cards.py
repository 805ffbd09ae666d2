"""`neurofm list | show | copy`: find cards and recipes, print one, take one away to change it."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from neurofm import cards


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the three commands; `parser` knows which one it belongs to."""
    command = parser.get_default("command")
    if command == "list":
        parser.add_argument(
            "kind", nargs="?", choices=cards.KINDS, help="only these (all if not given)"
        )
        return
    parser.add_argument("name", help="NAME, or KIND/NAME if several kinds have one of that name")
    if command == "copy":
        parser.add_argument(
            "dest", nargs="?", type=Path, default=Path(), help="file or folder (here by default)"
        )
        parser.add_argument("--force", action="store_true", help="replace a file that is there")


def run(args: argparse.Namespace) -> int:
    """Run the one that was asked for."""
    console = Console()
    if args.command == "list":
        for kind in [args.kind] if args.kind else cards.KINDS:
            if console.is_terminal:
                console.print(_table(kind))
                continue
            for name in cards.names(kind):  # one a line, for grep
                console.file.write(f"{kind}/{name}  {summary(kind, name)}\n")
    elif args.command == "show":
        kind, file = find(args.name)
        console.print(f"[dim]{kind}: {escape(str(file))}[/dim]", soft_wrap=True)
        text = file.read_text(encoding="utf-8")
        syntax = "json" if file.suffix == ".ipynb" else "yaml"
        if console.is_terminal:
            console.print(Syntax(text, syntax, background_color="default", word_wrap=True))
        else:
            console.file.write(text)
    else:
        _, file = find(args.name)
        target = copy(file, args.dest, force=args.force)
        console.print(f"Copied to {target}", markup=False, highlight=False, soft_wrap=True)
    return 0


def find(name: str) -> tuple[str, Path]:
    """Kind and file of `NAME` or `KIND/NAME`.

    Raises:
        FileNotFoundError: No card of that name, with near misses.
        ValueError: Several kinds have one.
    """
    kind, slash, rest = name.partition("/")
    if slash and kind in cards.KINDS:
        return kind, cards.path(kind, rest)
    if slash:
        raise ValueError(f"kind {kind!r} of {name!r} is not one of {', '.join(cards.KINDS)}.")
    holders = [kind for kind in cards.KINDS if name in cards.names(kind)]
    if len(holders) > 1:
        choices = " or ".join(f"{kind}/{name}" for kind in holders)
        raise ValueError(f"{name!r} is the name of several cards: say {choices}.")
    if not holders:
        return _nearest(name)
    return holders[0], cards.path(holders[0], name)


def _nearest(name: str) -> tuple[str, Path]:
    import difflib

    known = [f"{kind}/{card}" for kind in cards.KINDS for card in cards.names(kind)]
    bare = {full.split("/", 1)[1]: full for full in known}
    near = [bare[card] for card in difflib.get_close_matches(name, bare, n=3, cutoff=0.4)]
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    raise FileNotFoundError(f"There is no card called {name!r}.{hint} `neurofm list` shows all.")


def copy(file: Path, dest: Path, *, force: bool = False) -> Path:
    """Copy a card to a file or into a folder.

    Raises:
        FileExistsError: There is one already, and `force` is not set.
    """
    target = dest / file.name if dest.is_dir() else dest
    if target.exists() and not force:
        raise FileExistsError(f"{target} is there already. Use --force to replace it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
    return target


def _table(kind: str) -> Table:
    table = Table(title=kind, title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name in cards.names(kind):
        table.add_row(f"[bold]{escape(name)}[/bold]", escape(summary(kind, name)))
    if not cards.names(kind):
        table.add_row("(none)", "")
    return table


def question(recipe: Path) -> str:
    """What a recipe answers: the comment in its first line."""
    first = recipe.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").removeprefix(f"{recipe.name}:").strip() if first[:1] == "#" else ""


def summary(kind: str, name: str) -> str:
    """One line about a card: its description, or the question at the top of a recipe."""
    file = cards.path(kind, name)
    if file.suffix == ".ipynb":
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        first = "".join(cells[0]["source"]) if cells else ""
        return f"notebook: {first.partition(chr(10))[0].lstrip('# ').strip()}"
    if kind == "recipes":
        return question(file)
    try:
        return str(cards.read(kind, name)["description"])
    except ValueError as error:
        return f"cannot be read: {error}"
