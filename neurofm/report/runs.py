"""A training run's folder as a report: curves, final metrics, results, configuration.

Reads what Lightning's CSV logger and command line leave behind (`metrics.csv`, `config.yaml`) and a
`results.json` if an evaluation wrote one: a list of `Result` fields.
"""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from neurofm import cards
from neurofm.figures import plot_curves, plot_scores
from neurofm.report.codebook import about_codes, add_codebook
from neurofm.report.decoded import add_predictions
from neurofm.report.report import Report, load_report
from neurofm.types import Result

STAGES = ("train", "validate", "val", "test")
_MEANING = {  # of names that do not say what they are
    "pcc": ": correlation of the reconstruction with the signal",
    "commitment": ": distance of what is coded from its code",
}


@dataclass(frozen=True)
class Metrics:
    """What was logged.

    Args:
        curves: Metric to (steps, values), only where it was logged.
        incomplete: The last row was cut off and left out.
    """

    curves: dict[str, tuple[list[float], list[float]]]
    incomplete: bool


def read_run(folder: Path | str) -> Report:
    """Make a report of a training run.

    Raises:
        FileNotFoundError: Not a folder, or neither metrics nor results in it.
        ValueError: A file is incomplete or malformed; it is named.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder. Give the folder of a run.")
    metrics_path = _training_metrics(folder)
    results_path = folder / "results.json"
    if metrics_path is None and not results_path.is_file():
        raise FileNotFoundError(
            f"{folder}: neither metrics.csv (in it or below) nor results.json nor report.json. "
            "Give the folder in which `neurofm fit` ran, or wait until the first epoch is over."
        )
    config_path = None if metrics_path is None else metrics_path.with_name("config.yaml")
    if config_path is None or not config_path.is_file():
        config_path = _newest(folder, "config.yaml")
    config = _read_config(config_path) if config_path else None
    record = _record(metrics_path)
    told = [record.get("question"), _lead(config, config_path)]
    whole = folder.resolve()
    name = f"{whole.parent.name}, {whole.name}" if whole.name.startswith("version_") else whole.name
    report = Report(title=f"Run {name}", lead=" ".join(filter(None, told)))
    if results_path.is_file():
        results = read_results(results_path)
        figure = plot_scores(
            results, title="Results", xlabel="score", percent=all(r.unit == "" for r in results)
        )
        report.add_section(
            "Results",
            figures=[(figure, "Mean and 95 % interval; the dashed line is chance.")],
            results=results,
        )
    if metrics_path is not None:
        metrics = read_metrics(metrics_path)
        if metrics.incomplete:
            report.add_lines([f"The last row of {metrics_path.name} is incomplete and left out."])
        figures = [(figure, caption) for figure, caption in _curve_figures(metrics)]
        last = [
            {
                "metric": name,
                "last": values[-1],
                "lowest": min(values),
                "highest": max(values),
                "at step": int(steps[-1]),
            }
            for name, (steps, values) in metrics.curves.items()
            if name != "epoch" and not about_codes(name)
        ]
        text = f"From {metrics_path.relative_to(folder)}."
        if "seconds" in record:
            text += f" Training took {_duration(record['seconds'])}, threads: {record['threads']}."
        report.add_section("Training", text=text, figures=figures, table=last)
        add_codebook(report, metrics.curves)
    add_predictions(report, folder)
    for stage in ("validate", "test"):
        scored, numbers = _scores(folder, stage)
        if scored is not None:
            report.add_section(
                f"neurofm {stage}",
                text=f"From {scored.relative_to(folder)}.",
                table=[{"metric": name, "value": value} for name, value in numbers.items()],
            )
    explained = sorted(folder.rglob("explain/report.json"), key=lambda path: path.stat().st_mtime)
    if explained:  # by `neurofm explain`
        found = load_report(explained[-1].parent)
        report.add_lines(found.lines)
        report.sections += found.sections
    if config_path is not None:
        report.add_section(
            "Configuration",
            text=f"From {config_path.relative_to(folder)}. The run can be repeated with it: "
            f"neurofm fit --config {config_path}",
            code=config_path.read_text(encoding="utf-8"),
        )
    else:
        report.add_lines(["config.yaml is missing: the run cannot be repeated from this folder."])
    return report


def read_metrics(path: Path) -> Metrics:
    """Read the CSV file of a logger.

    Raises:
        ValueError: No rows, or a malformed one that is not the last.
    """
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    if len(rows) < 2 or "step" not in rows[0]:
        raise ValueError(
            f"{path}: {'empty' if not rows else 'no column step or no rows'}. The run has logged "
            "nothing yet, or was stopped while writing."
        )
    header, body = rows[0], [row for row in rows[1:] if row]
    incomplete = False
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for number, row in enumerate(body, start=2):
        last = number == len(body) + 1
        try:
            if len(row) != len(header):
                raise ValueError(f"{len(row)} cells, expected {len(header)}")
            cells = {name: float(cell) for name, cell in zip(header, row, strict=True) if cell}
            step = cells.pop("step")
        except (ValueError, KeyError) as error:
            if last:
                warnings.warn(
                    f"{path}: the last row is incomplete and left out ({error}).", stacklevel=2
                )
                incomplete = True
                break
            raise ValueError(
                f"{path}: line {number} is malformed ({error}). Remove it, or use a copy of the "
                "file from before."
            ) from error
        for name, value in cells.items():
            steps, values = curves.setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
    if not [name for name in curves if name != "epoch"]:
        raise ValueError(f"{path}: no metric in it. The run was stopped before it logged any.")
    return Metrics(curves, incomplete)


def read_results(path: Path) -> list[Result]:
    """Read a list of results.

    Raises:
        ValueError: Not JSON, or not a list of `Result` fields.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["results"] if isinstance(content, dict) else content
        results = [Result(**entry) for entry in entries]
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is incomplete or not a list of results ({type(error).__name__}: {error}). "
            "Run the evaluation again."
        ) from error
    if not results:
        raise ValueError(f"{path} holds no results. Run the evaluation again.")
    return results


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML ({error}).") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is empty or not a configuration. The run stopped too early.")
    return config


def _lead(config: dict[str, Any] | None, path: Path | None) -> str:
    if config is None or path is None:
        return "Data unknown: the folder holds no config.yaml."
    data = config.get("data") or {}
    arguments = data.get("init_args", data) if isinstance(data, dict) else {}
    for key in ("datasets", "dataset", "corpus", "store"):
        value = arguments.get(key) if isinstance(arguments, dict) else None
        if value:
            names = [str(name) for name in (value if isinstance(value, list) else [value])]
            told = [f"{name} (simulated)" if _is_simulated(name) else name for name in names]
            return f"Data: recordings of {', '.join(told)}."
    return f"Data: as described in {path.name} (no dataset is named there)."


def _is_simulated(name: str) -> bool:
    """Whether a dataset card needs no files; one that is no longer there is judged by its name."""
    try:
        return cards.read("datasets", name).get("folder", name) is None
    except (FileNotFoundError, ValueError):
        return "synthetic" in name or "simulated" in name


def _newest(folder: Path, name: str) -> Path | None:
    """The file in the folder itself, else the one below it that was written last."""
    if (folder / name).is_file():
        return folder / name
    found = sorted(folder.rglob(name), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _training_metrics(folder: Path) -> Path | None:
    """Metrics of the newest training; `neurofm test` leaves metrics of its own beside them."""
    if (folder / "metrics.csv").is_file():
        return folder / "metrics.csv"
    found = sorted(folder.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    trained = []
    for path in found:
        with path.open(encoding="utf-8", errors="replace") as file:
            if "train/" in file.readline():
                trained.append(path)
    chosen = trained or found
    return chosen[-1] if chosen else None


def _scores(folder: Path, stage: str) -> tuple[Path | None, dict[str, float]]:
    """What the newest `neurofm test` or `validate` of a run wrote, and where."""
    found = sorted(folder.rglob("run.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(found):
        try:
            numbers = json.loads(path.read_text(encoding="utf-8")).get(stage)
        except (ValueError, AttributeError):
            continue  # being written, or not ours
        if isinstance(numbers, dict) and numbers:
            return path, numbers
    return None, {}


def _record(metrics_path: Path | None) -> dict[str, Any]:
    """What `run.json` beside the metrics says; nothing if there is none, or it is being written."""
    path = None if metrics_path is None else metrics_path.with_name("run.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _duration(seconds: float | int) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _curve_figures(metrics: Metrics) -> list[tuple[Figure, str]]:
    """One figure per quantity, with a curve per stage; those logged once are in the table only."""
    groups: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for name, curve in metrics.curves.items():
        stage, _, quantity = name.partition("/")
        if stage not in STAGES or not quantity:
            stage, quantity = "", name
        if quantity == "epoch" or about_codes(name):
            continue
        base = quantity.removesuffix("_step").removesuffix("_epoch")
        label = " ".join(filter(None, (stage, quantity.removeprefix(base).strip("_")))) or base
        groups.setdefault(base, {})[label] = curve
    groups = {k: v for k, v in groups.items() if any(len(steps) > 1 for steps, _ in v.values())}
    for base, curves in groups.items():  # the same colour for the same stage in every figure
        groups[base] = dict(
            sorted(curves.items(), key=lambda item: item[0] not in ("train", "train step"))
        )
    order = sorted(groups, key=lambda quantity: ("loss" not in quantity, quantity))
    return [
        (
            plot_curves(groups[quantity], title=quantity, ylabel=quantity),
            f"{quantity} over training{_MEANING.get(quantity, '')}.",
        )
        for quantity in order[:12]
    ]
