"""Write each command's help into docs/cli.md, between the markers that name it; with --check, only compare.

A block looks like
    <!-- help: topic create -->
    ```text
    …
    ```
    <!-- end -->
Words around the blocks are written by hand and stay. A command without a block is an error, and the other way round.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from mqcore.cli.main import cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
_BLOCK = re.compile(r"<!-- help: (?P<name>[a-z -]+) -->\n.*?<!-- end -->", re.DOTALL)


def commands() -> Iterator[tuple[str, click.Command]]:
    """(name, command) of every command that does something."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", command.commands[sub]) for sub in command.commands)
        else:
            yield name, command


def help_of(name: str, command: click.Command) -> str:
    """The help as `mqcore NAME --help` prints it, 110 columns wide."""
    parent = click.Context(cli, info_name="mqcore", max_content_width=110, terminal_width=110)
    context = click.Context(command, info_name=name, parent=parent, help_option_names=["-h", "--help"])
    return command.get_help(context).rstrip()


def render(page: str) -> tuple[str, list[str]]:
    """(the page with fresh blocks, sentences for what is missing or too much)."""
    known = dict(commands())
    seen = {match["name"] for match in _BLOCK.finditer(page)}
    problems = [f"docs/cli.md has no block for `mqcore {name}`" for name in known if name not in seen]
    problems += [f"docs/cli.md: there is no command `mqcore {name}`" for name in sorted(seen - known.keys())]

    def fresh(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in known:
            return match[0]
        return f"<!-- help: {name} -->\n```text\n{help_of(name, known[name])}\n```\n<!-- end -->"

    return _BLOCK.sub(fresh, page), problems


def main(arguments: list[str]) -> int:
    page = PAGE.read_text(encoding="utf-8")
    rendered, problems = render(page)
    if "--check" in arguments:
        if rendered != page:
            problems.append("docs/cli.md is not what the commands say: run `python -P tools/cli_docs.py`")
    else:
        PAGE.write_text(rendered, encoding="utf-8")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
