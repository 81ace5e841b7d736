"""The instruction gate: count every case, compare with the baseline, fail past +2 %.

Usage: compare.py            compare; exit code 1 if a case costs more than 2 % over its baseline, or has none
       compare.py --update   write this toolchain's baseline (say in the commit why it moved)

A baseline holds for one machine kind, gcc, libc and valgrind; for another one nothing is gated, and that is said.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import cases  # noqa: E402

BASELINE = HERE / "baseline.json"
TOLERANCE = 0.02


def measure() -> dict[str, float]:
    """Case -> instructions of one call."""
    program = cases.build_driver()
    names = cases.case_names(program)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(names, pool.map(lambda name: cases.count(program, name), names), strict=True))


def compare(counted: dict[str, float], expected: dict[str, float]) -> list[str]:
    """Sentences for what fails; prints a line a case."""
    problems = []
    for name, value in counted.items():
        base = expected.get(name)
        if base is None:
            problems.append(f"{name}: {value:,.2f} instructions and no baseline")
            continue
        change = value / base - 1 if base else 0.0
        mark = "FAIL" if change > TOLERANCE else "ok  "
        print(f"{mark} {name:24} {value:>14,.2f} Ir/call  {100 * change:+.2f} %")
        if change > TOLERANCE:
            problems.append(f"{name}: {base:,.2f} -> {value:,.2f} instructions, {100 * change:+.1f} %")
    problems += [f"{name}: in the baseline, but no longer a case" for name in expected if name not in counted]
    return problems


def main(arguments: list[str]) -> int:
    if shutil.which("valgrind") is None:
        print("callgrind: skipped, no valgrind (apt-get install valgrind)")
        return 0
    key = cases.toolchain().key
    stored: dict[str, dict[str, float]] = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    if "--update" in arguments:
        stored[key] = measure()
        BASELINE.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        print(f"callgrind: baseline of {len(stored[key])} cases written for {key}")
        return 0
    if key not in stored:
        known = "; ".join(stored) or "none"
        print(f"callgrind: not gated, no baseline for {key} (there are: {known}). `make callgrind-baseline` makes one.")
        return 0
    problems = compare(measure(), stored[key])
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(
            "callgrind: if this is meant, run `make callgrind-baseline` and give the reason in the commit",
            file=sys.stderr,
        )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
