from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from neurofm.cli import report as command
from neurofm.report import (
    Report,
    Table,
    load_report,
    read_run,
)
from neurofm.types import Result

EVIL = "<script>alert('x')</script> & \"quotes\""


class Page(HTMLParser):
    """Tags, visible text and everything a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


def figure(seed: int = 0) -> Figure:
    drawn = Figure(figsize=(2, 1))
    drawn.add_subplot().plot(np.random.default_rng(seed).normal(size=5))
    return drawn


@pytest.fixture
def report() -> Report:
    made = Report("Motor imagery", "Simulated recordings of 3 people.")
    made.add_lines(["accuracy 0.71 [0.64, 0.78], chance 0.50"])
    made.add_section(
        "Scores",
        text="First paragraph.\n\nSecond paragraph.",
        figures=[(figure(0), "Scores by method."), (figure(1), "Confusions.")],
        results=[
            Result("fine-tuned", 0.71, low=0.64, high=0.78, n=3, chance=0.5),
            Result("undefined", float("nan")),
        ],
    )
    made.add_section("Data", table=[{"subject": "1", "windows": np.int64(20_000), "µV": 12.3456}])
    made.add_section("Settings", code="\n".join(f"line: {i}" for i in range(20)))
    return made


def test_the_page_holds_every_figure_and_fetches_nothing(report: Report, tmp_path: Path) -> None:
    path = report.save(tmp_path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    pictures = sorted((tmp_path / "figures").glob("*.png"))
    assert len(pictures) == 2
    embedded = {
        base64.b64decode(link.partition("base64,")[2]) for link in page.links if "base64" in link
    }
    assert embedded == {picture.read_bytes() for picture in pictures}
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    assert not {"script", "iframe", "object"} & set(page.tags)


def test_the_first_line_of_the_page_says_which_data(report: Report) -> None:
    page = Page(report.html().partition("<body>")[2])
    words = [line.strip() for line in page.text.splitlines() if line.strip()]
    assert words[:2] == ["Motor imagery", "Simulated recordings of 3 people."]
    with pytest.raises(ValueError, match="say which data"):
        Report("Motor imagery", " ")


def test_every_section_is_in_the_contents(report: Report) -> None:
    page = Page(report.html())
    targets = [link[1:] for link in page.links if link.startswith("#")]
    assert targets == ["findings", "1-scores", "2-data", "3-settings", "versions"]
    assert all(f'id="{target}"' in report.html() for target in targets)


def test_text_is_escaped_wherever_it_comes_from(tmp_path: Path) -> None:
    made = Report(EVIL, EVIL, versions={EVIL: EVIL})
    made.add_lines([EVIL])
    made.add_section(
        EVIL,
        text=EVIL,
        figures=[(figure(), EVIL)],
        table=[{EVIL: EVIL}],
        results=[Result(EVIL, 1.0, unit=EVIL)],
        code=EVIL,
    )
    page = Page(made.save(tmp_path).read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert EVIL in page.text


def test_a_report_read_back_renders_the_same_page(report: Report, tmp_path: Path) -> None:
    page = report.save(tmp_path).read_text(encoding="utf-8")
    again = load_report(tmp_path)
    assert again.html() == page
    assert again.save(tmp_path / "copy").read_text(encoding="utf-8") == page


def test_numbers_are_readable_and_gaps_are_visible(report: Report) -> None:
    text = Page(report.html()).text
    assert "0.710" in text
    assert "0.640 to 0.780" in text
    assert "20 000" in text
    assert "12.3" in text
    assert "–" in text


def test_report_json_is_strict_json(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert content["sections"][0]["results"][1]["value"] is None


def test_saving_again_replaces_old_pictures_and_leaves_no_parts(
    report: Report, tmp_path: Path
) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_bytes(b"not the report's")
    report.save(tmp_path)
    shorter = Report("Motor imagery", "Simulated.")
    shorter.add_section("Scores", figures=[(figure(5), "New.")])
    shorter.save(tmp_path)
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert len(names) == 4
    assert "mine.png" in names
    load_report(tmp_path)


def test_a_crash_while_saving_leaves_the_earlier_report(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = report.save(tmp_path).read_text(encoding="utf-8")
    newer = Report("Newer", "Simulated.")
    newer.add_section("Scores", figures=[(figure(7), "New.")])

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            newer.save(tmp_path)
    assert load_report(tmp_path).html() == page
    assert not list(tmp_path.rglob("*.part"))


def test_missing_and_damaged_files_are_named(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    picture = next((tmp_path / "figures").glob("*.png"))
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=re.escape(picture.name)):
        load_report(tmp_path)
    picture.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(picture.name)):
        load_report(tmp_path)
    content = (tmp_path / "report.json").read_text()
    (tmp_path / "report.json").write_text(content[:200])
    with pytest.raises(ValueError, match=r"report\.json is incomplete"):
        load_report(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"report\.json: no such file"):
        load_report(tmp_path / "figures")


def test_a_picture_outside_the_report_is_not_read(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    path = tmp_path / "report.json"
    content = json.loads(path.read_text())
    content["sections"][0]["figures"][0]["file"] = "../secret.png"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="odd name"):
        load_report(tmp_path)


def test_a_table_with_ragged_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 cells for 2 columns"):
        Table(("a", "b"), ((1, 2), (3,)))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    logs = folder / "lightning_logs" / "version_0"
    logs.mkdir(parents=True)
    rows = ["epoch,step,train/loss,validate/loss,validate/accuracy"]
    for step in range(10):
        rows.append(f"{step // 5},{step},{2 - 0.1 * step},,")
    rows += ["0,4,,1.8,0.5", "1,9,,1.5,0.6"]
    (logs / "metrics.csv").write_text("\n".join(rows) + "\n")
    (logs / "config.yaml").write_text(
        "data:\n  class_path: BrainData\n  init_args:\n    datasets: [physionet_mi]\n"
    )
    return folder


def test_a_test_of_the_run_stands_beside_its_training_not_in_its_place(run_folder: Path) -> None:
    later = run_folder / "lightning_logs" / "version_1"
    later.mkdir()
    (later / "metrics.csv").write_text("epoch,step,test/loss\n0,10,1.25\n")
    (later / "config.yaml").write_text("data: {init_args: {datasets: [eegmmidb]}}\n")
    (later / "run.json").write_text('{"test": {"test/loss": 1.25}}')
    found = read_run(run_folder)
    titles = [section.title for section in found.sections]
    assert titles.index("Training") < titles.index("neurofm test")
    assert found.sections[titles.index("Training")].figures
    assert found.lead == "Data: recordings of physionet_mi."
    assert "1.25" in str(found.sections[titles.index("neurofm test")].table)


def test_a_training_run_becomes_a_report(run_folder: Path) -> None:
    found = read_run(run_folder)
    assert found.lead == "Data: recordings of physionet_mi."
    text = "data: {init_args: {datasets: [synthetic_meeg, eegmmidb, gone]}}"
    (run_folder / "lightning_logs" / "version_0" / "config.yaml").write_text(text)
    assert read_run(run_folder).lead == (
        "Data: recordings of synthetic_meeg (simulated), eegmmidb, gone."
    )
    training = found.sections[0]
    assert training.title == "Training"
    assert [picture.caption for picture in training.figures] == [
        "loss over training.",
        "accuracy over training.",
    ]
    assert training.table is not None
    assert ("validate/accuracy", 0.6, 0.5, 0.6, 9) in training.table.rows
    assert "physionet_mi" in found.sections[1].code


def test_the_question_of_the_recipe_stands_first_and_what_training_took(run_folder: Path) -> None:
    logs = run_folder / "lightning_logs" / "version_0"
    (logs / "run.json").write_text('{"question": "Which hand?", "seconds": 754, "threads": 2}')
    rows = (logs / "metrics.csv").read_text().splitlines()
    (logs / "metrics.csv").write_text("\n".join(rows[:-1]) + "\n")  # validated once
    found = read_run(run_folder)
    assert found.lead == "Which hand? Data: recordings of physionet_mi."
    training = found.sections[0]
    assert training.text.endswith("Training took 13 minutes, threads: 2.")
    assert len(training.figures) == 1  # the loss, validation as a point; the accuracy is a number
    (logs / "run.json").write_text('{"question": "Wh')
    assert read_run(run_folder).lead == "Data: recordings of physionet_mi."


def test_results_of_a_run_come_first(run_folder: Path) -> None:
    entries = [{"name": "fine-tuned", "value": 0.7, "low": 0.6, "high": 0.8, "chance": 0.5}]
    (run_folder / "results.json").write_text(json.dumps(entries))
    assert read_run(run_folder).sections[0].title == "Results"
    (run_folder / "results.json").write_text('[{"name": "fine-tu')
    with pytest.raises(ValueError, match=r"results\.json is incomplete"):
        read_run(run_folder)
    (run_folder / "results.json").write_text('[{"nome": 1}]')
    with pytest.raises(ValueError, match=r"results\.json .*not a list"):
        read_run(run_folder)


def test_a_row_cut_off_at_the_end_is_left_out_and_said(run_folder: Path) -> None:
    path = next(run_folder.rglob("metrics.csv"))
    path.write_text(path.read_text() + "1,10,1.")
    with pytest.warns(UserWarning, match="last row is incomplete"):
        found = read_run(run_folder)
    assert any("incomplete" in line for line in found.lines)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", "", r"metrics\.csv: empty"),
        ("metrics.csv", "epoch,step,loss\n0,x,1\n0,1,1\n", r"metrics\.csv: line 2 is malformed"),
        ("metrics.csv", "epoch,step\n0,1\n", r"metrics\.csv: no metric"),
        ("config.yaml", "data: [unclosed", r"config\.yaml is not valid YAML"),
        ("config.yaml", "", r"config\.yaml is empty"),
    ],
)
def test_half_written_files_of_a_run_are_named(
    run_folder: Path, name: str, content: str, message: str
) -> None:
    next(run_folder.rglob(name)).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_run(run_folder)


def test_a_folder_without_a_run_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither metrics\.csv"):
        read_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_run(tmp_path / "gone")


def test_the_command_writes_the_page(
    run_folder: Path, report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args([str(run_folder)])) == 0
    assert (run_folder / "report" / "report.html").is_file()
    page = report.save(tmp_path / "finished")
    expected = page.read_text(encoding="utf-8")
    page.unlink()
    assert command.run(parser.parse_args([str(tmp_path / "finished")])) == 0
    assert page.read_text(encoding="utf-8") == expected
    assert "report.html" in capsys.readouterr().out


def test_reports_need_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, neurofm.cli.report; "
        "assert not {'torch', 'lightning', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
