"""`make bench`: run every case of both suites, keep the rows, and make tables and plots of them.

    python bench/report.py [--suite engine|eos] [--only REGEX] [--rounds N]   # measures; rows, tables and plots in --out
    python bench/report.py --again --update-docs                              # measures nothing: the rows that are there
    python bench/report.py --update-docs                                      # measures, then rewrites docs/performance.md

--update-docs puts each suite's table between its markers in docs/performance.md and the plots into docs/images. Rows that
could not run stay in the table, with their reason.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
SUITES = ("engine", "eos")

sys.path.insert(0, str(ROOT / "bench"))

import plots  # noqa: E402  (bench/ is no package)

Row = dict[str, Any]


def measure(suite: str, out: Path, only: str, rounds: int) -> None:
    """Run `mqcore bench SUITE --json`; its lines, and what machine it was, go to out/rows-SUITE.jsonl."""
    command = [sys.executable, "-P", "-c", "from mqcore.cli.main import main; main()"]
    command += ["bench", suite, "--json", "--only", only, "--rounds", str(rounds), "--directory", str(out)]
    with _rows(out, suite).open("w") as file:
        print(json.dumps(_machine()), file=file)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                row: Row = json.loads(line)
                print(json.dumps(row), file=file, flush=True)
                print(f"{row['name']:24} {row['ratio']:6.2f}  goal {row['goal']:.2f}  {row['why']}", flush=True)
    if child.returncode:
        raise SystemExit(f"mqcore bench {suite} ended with {child.returncode}")


def _rows(out: Path, suite: str) -> Path:
    return out / f"rows-{suite}.jsonl"


def _machine() -> Row:
    from mqcore.bench.harness import machine

    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"python": platform.python_version(), "cpu": model, "date": time.strftime("%Y-%m-%d")} | machine()


def load(path: Path) -> tuple[Row, list[Row]]:
    """(machine, rows) of a file of rows."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    return lines[0], lines[1:]


def table(machine: Row, rows: list[Row]) -> str:
    """The rows as Markdown, with what binds each of them."""
    from mqcore.bench import engine, eos  # noqa: F401  (their cases)
    from mqcore.bench.harness import CASES

    busy = machine["load_1m"] > machine["cpus"] / 2
    lines = [
        f"Measured {machine['date']} on {machine['cpus']} cores ({machine['cpu']}, {machine['machine']}), "
        f"Linux {machine['kernel'].split('-')[0]}, Python {machine['python']}, load {machine['load_1m']:.1f} at the start"
        + (
            ": **a busy machine**. Other work took part of each figure, of those that wait for the disk most; "
            "a quiet run will replace them."
            if busy
            else "."
        ),
        "",
        "| row | base | goal | seen here | figure | what binds |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        binds = " ".join(CASES[row["name"]].doc.split()) if row["name"] in CASES else ""
        seen = f"{row['ratio']:.2f}" if not row["why"] else f"0 ({row['why']})"
        mark = "" if row["reached"] else " ↓"
        lines.append(
            f"| `{row['name']}` | {row['base']} | {row['goal']:.2f} | {seen}{mark} | {row['figure']} | {binds} |"
        )
    lines += ["", "↓: below the goal."]
    return "\n".join(lines) + "\n"


def update_docs(suite: str, text: str, out: Path) -> None:
    """Put a suite's table and the plots into docs/."""
    begin, end = (f"<!-- bench/report.py {suite}: {word} -->" for word in ("begin", "end"))
    page = PAGE.read_text()
    head, rest = page.split(begin)
    _, tail = rest.split(end)
    PAGE.write_text(f"{head}{begin}\n\n{text}\n{end}{tail}")
    for plot in sorted(out.glob("performance-*.svg")):
        (ROOT / "docs" / "images" / plot.name).write_text(plot.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, help="only this one")
    parser.add_argument("--only", default="", help="only rows whose name matches this regular expression")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--again", action="store_true", help="the rows of the run before in --out: measure nothing")
    parser.add_argument("--update-docs", action="store_true", help="rewrite docs/performance.md and its plots")
    options = parser.parse_args()
    if options.only and options.update_docs:
        parser.error("--update-docs needs all rows: leave --only out")
    options.out.mkdir(parents=True, exist_ok=True)
    for suite in SUITES if options.suite is None else (options.suite,):
        if not options.again:
            measure(suite, options.out, options.only, options.rounds)
        machine, rows = load(_rows(options.out, suite))
        text = table(machine, rows)
        (options.out / f"table-{suite}.md").write_text(text)
        plots.draw(suite, rows, options.out)
        if options.update_docs:
            update_docs(suite, text, options.out)
        reached = sum(row["reached"] for row in rows)
        print(f"{suite}: {reached} of {len(rows)} rows reach their goal; table and plots: {options.out}")


if __name__ == "__main__":
    main()
