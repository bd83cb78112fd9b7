"""Every code block in README and docs: Python runs on a tiny budget, and the real parsers read our commands."""

import argparse
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
from budgets import shrink_work
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from sb3_carracing.cli.table import COMMANDS
from sb3_carracing.envs import rule_engine

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.md"))]


class Parsed(BaseException):
    """The arguments were read without an error."""


def commands_in(text: str) -> Iterator[list[str]]:
    """Return each command of ours in a shell script, with its arguments."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] in (["make", "train"], ["make", "test"]):
            arguments = [word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")]
            if arguments:
                yield ["train", *shlex.split(arguments[0])]
        while words and "=" in words[0]:  # a variable of the environment
            words = words[1:]
        if words[:1] == ["sb3-carracing"]:
            yield words[1:]
        elif words[:3] == ["python", "-m", "sb3_carracing"]:
            yield words[3:]
        elif words[:2] == ["python", "-m"] and words[2].startswith("rl_zoo3."):
            yield [words[2].removeprefix("rl_zoo3."), *words[3:]]


def parse(command: list[str]) -> None:
    """Let a command read its arguments and stop there; an argument that it does not know raises SystemExit."""
    name, *arguments = command
    if name in ("--version", "--help"):
        return
    read = argparse.ArgumentParser.parse_args

    def read_and_stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> NoReturn:
        read(parser, *args, **kwargs)
        raise Parsed

    # rl-zoo3's commands look for agents and files before they read the arguments, but not if they are asked for help.
    with (
        patch.object(argparse.ArgumentParser, "parse_args", read_and_stop),
        patch("sb3_carracing.zoo.commands.asks_for_help", return_value=True),
        patch("sb3_carracing.zoo.plots.asks_for_help", return_value=True),
        pytest.raises(Parsed),
    ):
        COMMANDS[name].load()(arguments)


def parse_block(example: Example) -> None:
    for command in commands_in(example.parsed):
        parse(command)


def blocks(page: Path, *parsers: Any) -> list[Example]:
    return list(Sybil(parsers).parse(page).examples())


SHELL = CodeBlockParser("bash", parse_block)
PYTHON = (PythonCodeBlockParser(), SkipParser())


def pages_with(*parsers: Any) -> list[Any]:
    return [pytest.param(page, id=page.name) for page in PAGES if blocks(page, *parsers)]


@pytest.mark.parametrize("page", pages_with(*PYTHON))
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheap_film: None) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(ROOT / "rl-trained-agents", "rl-trained-agents")
    shrink_work(monkeypatch)
    monkeypatch.setattr(rule_engine, "_RULES", {**rule_engine._RULES})  # a page defines a training rule
    for example in blocks(page, *PYTHON):
        example.evaluate()


@pytest.mark.parametrize("page", pages_with(SHELL))
def test_commands_are_read_by_their_parsers(page: Path) -> None:
    for example in blocks(page, SHELL):
        example.evaluate()


def test_commands_are_found_and_wrong_ones_are_refused() -> None:
    script = (
        'A=b python -m sb3_carracing train --env X \\\n  -n 5  # why\nmake train ARGS="--seed 3"\nsb3-carracing plot RUN\n'
    )
    assert list(commands_in(script)) == [["train", "--env", "X", "-n", "5"], ["train", "--seed", "3"], ["plot", "RUN"]]
    for wrong in (["train", "--sed", "3"], ["plot"], ["enjoy", "--algo"], ["evaluate", "RUN", "--renderer", "slow"]):
        with pytest.raises(SystemExit):
            parse(wrong)
