"""The entry point of `mqcore`: finds a command's file only when it is called, and turns errors into one line.

Invariants:
    1. An expected error (MQError, OSError, wrong use) is one line with its hint on standard error, never a traceback.
       With --json it is one JSON object there.
    2. Exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    3. Standard output carries results only; progress and notes go to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from mqcore._version import __version__
from mqcore.errors import MQError

# command -> module:attribute. Imported when called: `mqcore --help` must not load numpy.
COMMANDS = {
    "demo": "mqcore.cli.demo:demo",
    "topic": "mqcore.cli.topic:topic",
    "produce": "mqcore.cli.produce:produce",
    "consume": "mqcore.cli.consume:consume",
    "group": "mqcore.cli.group:group",
    "txn": "mqcore.cli.txn:txn",
    "log": "mqcore.cli.log:log",
    "bench": "mqcore.cli.bench:bench",
    "torture": "mqcore.cli.torture:torture",
    "eos-check": "mqcore.cli.eos_check:eos_check",
    "doctor": "mqcore.cli.doctor:doctor",
}
# The one-line help of each, so that the overview needs no import; a test compares them with the commands' own.
SUMMARIES = {
    "demo": "Real events through a pipeline that is killed, every one checked.",
    "topic": "Create, list, describe, alter, delete and adopt topics.",
    "produce": "Append records from standard input or files.",
    "consume": "Print records of a topic.",
    "group": "List, describe, explain, move and delete consumer groups.",
    "txn": "List, describe and abort transactions.",
    "log": "Look into a store's files: dump, verify, repair.",
    "bench": "Measure this machine, each figure beside its limit.",
    "torture": "Attack a store with faults and check what it promised.",
    "eos-check": "Plant ids, run a worker, kill it at random moments; tell what was lost, duplicated, out of order.",
    "doctor": "Say what this machine gives a store, and what is off.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mqcore")
def cli() -> None:
    """mqcore: a crash-safe, Kafka-format message log in one directory.

    \b
    Example: mqcore topic create orders --partitions 12
             echo hello | mqcore produce orders
             mqcore consume orders
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. arguments: without the program's name; None takes the process's own."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(args=args, prog_name="mqcore", standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.Abort:
        code = 130
    except click.UsageError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        code = _fail("UsageError", error.format_message(), "", {}, as_json="--json" in args)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader went away (`mqcore consume … | head`): no error, and Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except MQError as error:
        code = _fail(
            type(error).__name__,
            error.what if "--json" in args else str(error),
            error.hint,
            error.where,
            as_json="--json" in args,
        )
    except OSError as error:
        code = _fail(type(error).__name__, str(error), "", {"errno": error.errno}, as_json="--json" in args)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(kind: str, message: str, hint: str, where: dict[str, Any], *, as_json: bool) -> int:
    """Print an error as one line, or as one JSON object; return the exit code."""
    if as_json:
        body = {"error": kind, "message": message, "hint": hint, "where": where}
        click.echo(json.dumps(body, default=str), err=True)
    else:
        click.secho("mqcore: ", fg="red", err=True, nl=False)
        click.echo(" ".join(message.split()), err=True)
    return 1


if __name__ == "__main__":
    main()
