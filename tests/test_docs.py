from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from neurofm import cards
from neurofm.cli import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS)
def test_the_readme_s_python_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEUROFM_STORE", str(tmp_path / "store"))

    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})

    printed = capsys.readouterr().out
    if "BrainData" in code:
        assert "physical 256.0" in printed
    else:
        r, passed, matched = map(float, printed.split())
        assert 0 < r < 1
        assert 0.2 < passed < 1
        assert matched > 0.6


CORPORA = (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", CORPORA, flags=re.DOTALL))
def test_the_python_of_the_datasets_readme_prints_what_it_says(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEUROFM_STORE", str(tmp_path / "store"))

    exec(compile(code, "datasets/README.md", "exec"), {"__name__": "readme"})

    printed = capsys.readouterr().out.splitlines()
    assert set(re.findall(r"^# (.*)$", code, flags=re.MULTILINE)) <= set(printed)


def test_the_readme_s_commands_exist():
    commands = re.findall(r"^neurofm (\S+)", README, flags=re.MULTILINE)

    assert len(commands) > 5
    assert set(commands) <= set(COMMANDS)


@pytest.mark.parametrize("name", ["demo", "doctor", "check", "prepare", "convert", "report"])
def test_the_example_in_a_command_s_help_is_one_it_takes(name):
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(command.module).add_arguments(parser)

    parser.parse_args(command.example.split()[2:])


def test_the_readme_s_recipes_and_models_exist():
    named = re.findall(r"--config (\w+)", README)
    models = re.findall(r"`((?:brain)\w+_\w+|braintokenizer)`", README)

    assert set(named) <= set(cards.names("recipes"))
    assert models and set(models) <= set(cards.names("models"))


def test_the_recipes_readme_lists_every_recipe():
    text = (cards.root("recipes") / "README.md").read_text(encoding="utf-8")

    assert [name for name in cards.names("recipes") if f"`{name}`" not in text] == []


def test_links_of_the_readmes_lead_somewhere():
    for readme in [ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("tests/*/README.md")]:
        text = readme.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (readme.parent / link).exists(), f"{readme}: {link}"
