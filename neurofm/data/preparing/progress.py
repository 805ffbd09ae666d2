"""How far preparing or tokenizing is: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_EVERY_S = 30.0


class Shown:
    """Counts recordings and says so.

    Args:
        total: Recordings.
        show: Called with the words after every recording.
        say: Called with a line that must be seen.
        command: What is done, "prepare" or "tokenize".
    """

    def __init__(
        self,
        total: int,
        show: Callable[[str], None],
        say: Callable[[str], None],
        command: str = "prepare",
    ) -> None:
        self.total, self.say, self.command = total, say, command
        self._show = show
        self.finished = self.made = self.failed = self.workers = self.tokens = 0
        self.seconds = 0.0
        self._start = time.monotonic()

    def begin(self, workers: int) -> None:
        """Work starts now: rates count from here."""
        self.workers = workers
        self._start = time.monotonic()

    def advance(self, seconds: float | None, *, made: bool, tokens: int = 0) -> None:
        """One recording more.

        Args:
            seconds: Its length; None if it failed.
            made: False if the store had it.
            tokens: How many were made of it.
        """
        self.finished += 1
        self.failed += seconds is None
        if made and seconds is not None:
            self.made += 1
            self.seconds += seconds
            self.tokens += tokens
        self._show(self.words())

    def words(self) -> str:
        """Rate, workers, failures."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        words = [f"already {self.command}d"]
        if self.made:
            words = [f"{self.seconds / 3600 / elapsed:.3f} h of signal per s"]
        if self.tokens:
            words.append(f"{self.tokens / elapsed:,.0f} tokens per s")
        if self.workers > 1:
            words.append(f"{self.workers} workers")
        if self.failed:
            words.append(f"{self.failed} failed")
        return ", ".join(words)

    def left(self) -> str:
        """Time left at the rate so far."""
        elapsed = time.monotonic() - self._start
        seconds = elapsed / max(self.finished, 1) * (self.total - self.finished)
        hours, rest = divmod(round(seconds), 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d} left"


@contextmanager
def shown(
    name: str,
    total: int,
    progress: bool,
    *,
    command: str = "prepare",
    console: Console | None = None,
) -> Iterator[Shown]:
    """Show progress while the context lasts.

    Args:
        name: What is prepared or tokenized.
        total: Recordings.
        progress: False shows nothing.
        command: What is done, "prepare" or "tokenize".
        console: Standard error if not given.
    """
    console = Console(stderr=True) if console is None else console
    if not progress:
        yield Shown(total, lambda words: None, lambda line: None, command)
        return

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    if not console.is_terminal:
        last = time.monotonic()

        def now_and_then(words: str) -> None:
            nonlocal last
            if time.monotonic() - last >= _EVERY_S:
                last = time.monotonic()
                counts = f"{counter.finished} of {total} recordings"
                say(f"{command} {name}: {counts}, {words}, {counter.left()}")

        counter = Shown(total, now_and_then, say, command)
        yield counter
        if counter.made or counter.failed:
            say(f"{command} {name}: {counter.finished} of {total} recordings, {counter.words()}")
        return
    columns = (
        TextColumn(f"{command} {name}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total, words="")
        show = lambda words: bar.update(task, advance=1, words=words)  # noqa: E731
        yield Shown(total, show, say, command)
