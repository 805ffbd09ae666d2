"""`neurofm report`: the HTML page of a finished demo, evaluation or training run."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Write the report of a run as one HTML page that can be mailed or put on a server. A "
        "folder with a report.json is shown again as it is; of a training run's folder the "
        "curves, final metrics, results and configuration are shown."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--open", action="store_true", help="open it in the browser")


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is.

    Raises:
        FileNotFoundError: There is nothing to report; the message names what was looked for.
        ValueError: A file of the run is incomplete; it is named.
    """
    from neurofm.report import load_report, read_run  # loads matplotlib

    folder: Path = args.run
    has_report = (folder / "report.json").is_file()
    report = load_report(folder) if has_report else read_run(folder)
    console = Console()
    # Beside a training run's own files, the page gets a folder of its own.
    path = report.save(folder if has_report else folder / "report")
    console.print(report.title, style="bold", highlight=False, markup=False)
    console.print(report.lead, highlight=False, markup=False)
    for line in report.lines:
        console.print(line, highlight=False, markup=False)
    console.print(f"report: {path.resolve()}", highlight=False, soft_wrap=True, markup=False)
    if args.open and not webbrowser.open(path.resolve().as_uri()):
        console.print("No browser could be started; open the file above yourself.")
    return 0
