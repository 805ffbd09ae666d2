"""Folders of runs: started together, they get one each."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from neurofm.cli.run_folder import VersionFolders


def test_runs_started_together_have_a_folder_each(tmp_path: Path) -> None:
    loggers = [VersionFolders(tmp_path, name="recipe") for _ in range(3)]
    folders = [Path(logger.log_dir).name for logger in loggers]
    assert folders == ["version_0", "version_1", "version_2"]
    assert Path(loggers[0].log_dir).name == "version_0"  # asked again, the same


def test_a_folder_taken_between_looking_and_making_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = VersionFolders(tmp_path, name="recipe")
    other = VersionFolders(tmp_path, name="recipe")
    monkeypatch.setattr(
        "lightning.pytorch.loggers.CSVLogger._get_next_version", lambda _self: 0
    )  # both saw an empty folder
    assert (other.version, logger.version) == (0, 1)


def test_processes_that_write_nothing_claim_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert VersionFolders(tmp_path, name="recipe").version == 0
    assert not (tmp_path / "recipe").exists()
