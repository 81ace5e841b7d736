"""Every command has help with an example, takes --json, and says errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from mqcore.cli.main import COMMANDS, SUMMARIES, cli


def every_command() -> Iterator[tuple[str, click.Command]]:
    """(name, command) of each command and subcommand."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", command.commands[sub]) for sub in command.commands)


LEAVES = [(name, command) for name, command in every_command() if not isinstance(command, click.Group)]


@pytest.mark.parametrize(("name", "command"), LEAVES, ids=[name for name, _ in LEAVES])
def test_help_has_an_example(name: str, command: click.Command) -> None:
    help_text = command.get_help(click.Context(command, info_name=f"mqcore {name}"))
    assert f"Example: mqcore {name}" in help_text or f"| mqcore {name}" in help_text


@pytest.mark.parametrize(("name", "command"), LEAVES, ids=[name for name, _ in LEAVES])
def test_json_everywhere_and_every_option_explained(name: str, command: click.Command) -> None:
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert any("--json" in option.opts for option in options)
    for option in options:
        assert option.help or isinstance(option.type, click.Choice | click.IntRange), f"{name} {option.name}"


def test_the_overview_says_what_the_commands_say() -> None:
    for name, command in every_command():
        if name in COMMANDS:
            assert (command.help or "").splitlines()[0] == SUMMARIES[name]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "mqcore.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_error_is_one_line_with_a_hint() -> None:
    result = run("topic", "list", "--store", "/nonexistent/store")
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert "no store here" in result.stderr
    assert "MQCORE_STORE" in result.stderr


def test_an_error_for_machines_is_one_object() -> None:
    result = run("topic", "list", "--store", "/nonexistent/store", "--json")
    assert result.returncode == 1
    error = json.loads(result.stderr)
    assert error["error"] == "StoreFormatError"
    assert error["hint"]
    assert error["where"] == {"path": "/nonexistent/store"}


def test_wrong_use_is_exit_code_2() -> None:
    assert run("topic", "list", "--nonsense").returncode == 2
    assert run("nonsense").returncode == 2


def test_the_overview_loads_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['mqcore', '--help']\n"
    code += "import mqcore.cli.main as m\ntry: m.main()\nexcept SystemExit: pass\n"
    code += "assert 'pyarrow' not in sys.modules and 'pandas' not in sys.modules"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
