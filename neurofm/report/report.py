"""A report: a first line that says which data it shows, sections of text, tables and figures.

`save` writes `report.json`, `figures/*.png` and one `report.html` that needs nothing else: pictures
and styles are inside it, and opening it makes no network request. `load_report` reads the first two
back, so that the page can be made again.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from neurofm.figures.style import DPI
from neurofm.types import Result

FORMAT = 1
FIGURE = r"figures/[a-z0-9-]+\.png"
PACKAGES = ("neurofm", "torch", "lightning", "mne", "braindecode", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Picture:
    """A PNG with the sentence that explains it."""

    png: bytes
    caption: str

    @classmethod
    def from_figure(cls, figure: Figure, caption: str) -> Picture:
        """Draw a matplotlib figure."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        return cls(buffer.getvalue(), caption)

    @property
    def data_uri(self) -> str:
        """For the page itself."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels of a page."""
        width, height = struct.unpack(">II", self.png[16:24])
        scale = 96 / DPI * 1.12
        return round(width * scale), round(height * scale)


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under column names."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Table: row {i} has {len(row)} cells for {len(self.columns)} columns."
                )

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Table:
        """From dictionaries; columns in order of first appearance, gaps left empty."""
        rows = list(rows)
        columns = tuple(dict.fromkeys(key for row in rows for key in row))
        return cls(columns, tuple(tuple(row.get(key) for key in columns) for row in rows))


@dataclass(frozen=True)
class Section:
    """One part of a report; see `Report.add_section`."""

    title: str
    text: str = ""
    figures: tuple[Picture, ...] = ()
    table: Table | None = None
    results: tuple[Result, ...] = ()
    code: str = ""


@dataclass
class Report:
    """Collects sections and writes them.

    Args:
        title: Of the page.
        lead: Its first line: which data it shows (recordings or a simulation, how many people).
        lines: What a terminal would print: the findings, one sentence or number each.
        created: ISO date and time; now if not given.
        versions: Package to version; those in use if not given.
    """

    title: str
    lead: str
    lines: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.lead.strip():
            raise ValueError(f"Report {self.title!r}: the lead is empty; say which data it shows.")
        self.created = self.created or datetime.datetime.now().astimezone().isoformat(
            "T", "seconds"
        )
        self.versions = self.versions or _versions()

    def add_lines(self, lines: Sequence[str]) -> None:
        """Add findings to the box at the top."""
        self.lines.extend(str(line) for line in lines)

    def add_section(
        self,
        title: str,
        *,
        text: str = "",
        figures: Sequence[Picture | tuple[Figure, str]] = (),
        table: Table | Sequence[Mapping[str, Any]] | None = None,
        results: Sequence[Result] = (),
        code: str = "",
    ) -> None:
        """Add a part.

        Args:
            text: Plain; an empty line starts a new paragraph.
            figures: Figures with captions, drawn at once.
            table: A `Table`, or one dictionary per row.
            results: Shown as a table with interval, chance, ceiling and number of replications.
            code: Shown as it is: a configuration, a command.
        """
        pictures = [
            figure if isinstance(figure, Picture) else Picture.from_figure(*figure)
            for figure in figures
        ]
        rows = table if isinstance(table, Table) or table is None else Table.of(table)
        self.sections.append(
            Section(title, text, tuple(pictures), rows, tuple(results), code.rstrip())
        )

    def html(self) -> str:
        """The page, with everything in it."""
        folder = Path(__file__).parent
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(number=_number, paragraphs=_paragraphs)
        names = [f"{i + 1}-{_slug(section.title)}" for i, section in enumerate(self.sections)]
        return environment.get_template("report.html.j2").render(
            report=self,
            sections=list(zip(names, self.sections, strict=True)),
            when=self.created.replace("T", " ")[:16],
        )

    def save(self, folder: Path | str) -> Path:
        """Write figures, report.json and report.html.

        Each file is written beside its place and renamed, pictures before the report that names
        them: a crash leaves the earlier report whole.

        Returns:
            Path of the page.
        """
        folder = Path(folder)
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        entries = []
        for i, section in enumerate(self.sections):
            figures = []
            for picture in section.figures:
                digest = hashlib.sha256(picture.png).hexdigest()
                name = f"figures/{i + 1}-{_slug(section.title)}-{digest[:8]}.png"
                _write(folder / name, picture.png)
                figures.append({"file": name, "sha256": digest, "caption": picture.caption})
            entry: dict[str, Any] = {
                "title": section.title,
                "text": section.text,
                "code": section.code,
                "figures": figures,
                "table": asdict(section.table) if section.table else None,
                "results": [asdict(result) for result in section.results],
            }
            entries.append(entry)
        content = {
            "format": FORMAT,
            "title": self.title,
            "lead": self.lead,
            "created": self.created,
            "versions": self.versions,
            "lines": self.lines,
            "sections": entries,
        }
        text = json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False)
        old = _named_figures(folder / "report.json")
        _write(folder / "report.json", text.encode())
        _write(folder / "report.html", self.html().encode())
        for name in old - {figure["file"] for entry in entries for figure in entry["figures"]}:
            (folder / name).unlink(missing_ok=True)
        return folder / "report.html"


def load_report(folder: Path | str) -> Report:
    """Read a saved report.

    Raises:
        FileNotFoundError: report.json or a picture is missing; it is named.
        ValueError: One of them is incomplete or of another format.
    """
    folder = Path(folder)
    path = folder / "report.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Is {folder} the folder of a report?")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(
                f"{path}: format {content['format']}, this version reads {FORMAT}. Make the report "
                "again with the command that made it."
            )
        sections = [_section(folder, entry) for entry in content["sections"]]
        return Report(
            title=content["title"],
            lead=content["lead"],
            lines=content["lines"],
            sections=sections,
            created=content["created"],
            versions=content["versions"],
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is incomplete or was edited ({type(error).__name__}: {error}). Make the "
            "report again with the command that made it."
        ) from error


def _section(folder: Path, entry: dict[str, Any]) -> Section:
    pictures = []
    for figure in entry["figures"]:
        if not re.fullmatch(FIGURE, figure["file"]):
            raise ValueError(f"{folder / 'report.json'}: odd name of a picture {figure['file']!r}.")
        path = folder / figure["file"]
        if not path.is_file():
            raise FileNotFoundError(f"{path}: this picture of the report is missing.")
        png = path.read_bytes()
        if hashlib.sha256(png).hexdigest() != figure["sha256"]:
            raise ValueError(f"{path}: this picture is incomplete or is not the report's own.")
        pictures.append(Picture(png, figure["caption"]))
    table = entry["table"]
    return Section(
        title=entry["title"],
        text=entry["text"],
        figures=tuple(pictures),
        table=None
        if table is None
        else Table(tuple(table["columns"]), tuple(tuple(row) for row in table["rows"])),
        results=tuple(_result(fields) for fields in entry["results"]),
        code=entry["code"],
    )


def _named_figures(path: Path) -> set[str]:
    """Pictures an earlier report in the same place refers to."""
    try:
        sections = json.loads(path.read_text(encoding="utf-8"))["sections"]
        names = {figure["file"] for section in sections for figure in section["figures"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if re.fullmatch(FIGURE, name)}


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """What JSON knows: numpy and paths converted, NaN and infinity as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def _result(fields: dict[str, Any]) -> Result:
    missing = {"value": math.nan} if fields["value"] is None else {}
    return Result(**(fields | missing))


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "section"


def _number(value: Any) -> str:
    """A cell: numbers with three or four meaningful digits, nothing as a dash."""
    value = value.item() if hasattr(value, "item") else value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ") if abs(value) >= 10_000 else str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = max(0, 3 - max(0, math.floor(math.log10(abs(value))) + 1)) if value else 0
        return f"{value:.{digits}f}".replace("-", "−")
    return f"{value:.2e}".replace("-", "−")


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
