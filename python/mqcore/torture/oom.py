"""T6: the n-th allocation fails, n = 1, 2, 3 … until the operation runs clean or 500, in Python's heap and in the core's.

    python -P -m mqcore.torture.oom PLACE OPERATION HEAP FROM TO DURABILITY      (a child of the suite)

Each attempt has a fresh copy of a small store. The operation must succeed, or raise MemoryError or an error of ours; the store
must then work or refuse in words, and a reopened one must keep what was acknowledged (I1 to I5). Attempts run in child
processes, for CPython 3.11 has places of its own that do not survive a failed allocation: a death whose C stack shows none of
our modules is counted apart, in notes; one that does is a violation. The core's own heap is attacked where the build allows it
(MQCORE_CFLAGS=-DMQCORE_ALLOC_FAULT); the C unit tests do that exhaustively in any case.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mqcore import errors
from mqcore._native.segment import allocate_fail_at
from mqcore.torture.attack import environment, open_and_check, read_all, workplace
from mqcore.torture.io_operations import OPERATIONS, Inside, Templates
from mqcore.torture.ledger import TOPIC, Ledger
from mqcore.torture.report import Report

N_MAX = 500
_HANG_S = 60  # an attempt that takes longer hangs
# What CPython makes of a MemoryError of its own in os.fspath, threading.Lock and Thread.start.
_HIDDEN = ("expected str, bytes or os.PathLike", "can't allocate lock", "can't start new thread")
_MODULES = "/mqcore/_native/"  # of our extension modules, in a C stack


class _Attempts:
    """The child's side: attempts at one operation; a line on standard output before and after each."""

    def __init__(self, place: Path, operation: str, heap: str, durability: str) -> None:
        self._place, self._operation, self._heap, self._durability = place, OPERATIONS[operation], heap, durability
        self._report = Report("oom", 0, durability=durability)
        self._templates: Templates = pickle.loads((place / "templates.pickle").read_bytes())
        # By name: the module is not in every build of Python, and mypy knows nothing of it.
        self._python: Any = importlib.import_module("_testcapi") if heap == "python" else None

    def _arm(self, n: int) -> None:
        if self._heap == "python":
            self._python.set_nomemory(n, n + 1)
        else:
            allocate_fail_at(n)

    def _disarm(self) -> None:
        if self._heap == "python":
            self._python.remove_mem_hooks()
        else:
            allocate_fail_at(0)

    def once(self, n: int) -> bool:
        """One attempt; True if the operation raised."""
        path, operation = self._place / "store", self._operation
        shutil.rmtree(path, ignore_errors=True)
        ledger = self._templates.copy(operation.template, path)
        worker = Inside(ledger)
        where = f"{operation.name}, allocation {n} of {self._heap}"
        caught: BaseException | None = None
        if not operation.opens:
            worker.open(path, self._durability)
        try:
            self._arm(n)
            try:
                if operation.opens:
                    worker.open(path, self._durability)
                operation.act(worker)
            finally:
                self._disarm()
        except Exception as error:
            caught = error
        if isinstance(caught, TypeError | RuntimeError) and str(caught).startswith(_HIDDEN):
            self._report.notes["hidden_by_cpython"] = True
        elif caught is not None and not isinstance(caught, MemoryError | errors.MQError):
            self._report.violate("I3", f"{type(caught).__name__}: {caught} [{where}]")
        if worker.store is not None:
            self._judge(worker, ledger, where)
        found = open_and_check(path, ledger, self._report, durability=self._durability, go_on=n % 5 == 0)
        self._report.absorb((invariant, f"{sentence} [{where}]") for invariant, sentence in found)
        return caught is not None

    def _judge(self, worker: Inside, ledger: Ledger, where: str) -> None:
        """The store that met the fault reads what was acknowledged, writes on or refuses in words, and closes."""
        store = worker.store
        steps: dict[str, Callable[[], None]] = {
            # What it still holds comes first: order is promised within a producer only.
            "closing the producer": worker.producer.close if hasattr(worker, "producer") else lambda: None,
            "reading on": lambda: self._read(store, ledger, where),
            "writing on": lambda: Inside(ledger, store).write_on(),
            "closing": store.close,
        }
        for name, step in steps.items():
            try:
                step()
            except (errors.MQError, MemoryError):
                pass  # the one that nobody was told of yet
            except Exception as error:
                self._report.violate("I3", f"{name}: {type(error).__name__}: {error} [{where}]")

    def _read(self, store: Any, ledger: Ledger, where: str) -> None:
        for partition, acked in ({} if store.closed else ledger.acked).items():
            have = {offset for offset, _ in read_all(store, TOPIC, partition)}
            gone = [offset for offset in acked if offset not in have and offset >= ledger.trimmed[partition]]
            if gone:
                self._report.violate("I1", f"{len(gone)} acknowledged records unreadable afterwards [{where}]")

    def run(self, first: int, last: int) -> None:
        clean = 0
        for n in range(first, last + 1):
            print(json.dumps({"try": n}), flush=True)
            faulthandler.dump_traceback_later(_HANG_S, exit=True)
            raised = self.once(n)
            report = self._report
            print(json.dumps({"done": n, "raised": raised, "read": report.read, "lost": report.lost,
                              "violations": dict(report.violations), "examples": report.examples}), flush=True)  # fmt: skip
            report.read = report.lost = 0
            report.violations.clear()
            report.examples.clear()
            # One that swallowed the failure (a cache not filled) proves nothing: clean is clean some times in a row.
            clean = 0 if raised else clean + 1
            if clean >= 25:
                break
        print(json.dumps({"end": True}), flush=True)


class _Suite:
    """The parent's side."""

    def __init__(self, place: Path, report: Report, progress: Callable[[int], None], library: Path | None) -> None:
        self._place, self._report, self._progress, self._library = place, report, progress, library
        self._interpreter = 0

    def exhaust(self, operation: str, heap: str, n_max: int) -> None:
        """One operation, n = 1 … ; a child that dies is followed by one that begins behind that n."""
        n = 1
        while 0 < n <= n_max:
            n = self._child(operation, heap, n, n_max)

    def _child(self, operation: str, heap: str, first: int, last: int) -> int:
        command = [sys.executable, "-P", "-X", "faulthandler=0", "-m", "mqcore.torture.oom", str(self._place), operation,
                   heap, str(first), str(last), self._report.durability]  # fmt: skip
        env = environment(**({"LD_PRELOAD": str(self._library)} if self._library else {}))
        report, trying, done = self._report, first, False
        errors_file = self._place / "stderr"
        with (
            open(errors_file, "w+b") as stderr,
            subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True) as child,
        ):
            assert child.stdout is not None
            for line in child.stdout:
                told = json.loads(line)
                if "try" in told:
                    trying = told["try"]
                elif "done" in told:
                    report.faults_injected[f"{heap} {operation}"] += 1
                    report.read += told["read"]
                    report.lost += told["lost"]
                    report.violations.update(told["violations"])
                    report.examples += told["examples"][: max(0, 20 - len(report.examples))]
                    self._progress(sum(report.faults_injected.values()))
                else:
                    done = True
        if done and child.returncode == 0:
            return 0
        report.faults_injected[f"{heap} {operation}"] += 1
        self._judge_death(
            f"{operation}, allocation {trying} of {heap}", child.returncode, errors_file.read_text(errors="replace")
        )
        return trying + 1

    def _judge_death(self, where: str, status: int, said: str) -> None:
        """Whose death was it? Only a C stack without our modules clears us."""
        _, found, stack = said.partition("CRASHTRACE\n")
        if found and _MODULES not in _until_main(stack):
            self._report.notes["interpreter_deaths"] = self._report.notes.get("interpreter_deaths", 0) + 1
            self._report.notes.setdefault("interpreter_death_examples", [])
            if len(self._report.notes["interpreter_death_examples"]) < 5:
                self._report.notes["interpreter_death_examples"].append(f"{where}: {stack.splitlines()[3:9]}")
            return
        self._report.violate("I3", f"the process died with {status} [{where}]: {said[-500:]}")


def _until_main(stack: str) -> str:
    """The innermost frames, up to the evaluation loop that called them: who is further out only called Python."""
    lines = []
    for line in stack.splitlines():
        lines.append(line)
        if "_PyEval_EvalFrameDefault" in line:
            break
    return "\n".join(lines)


def _build_tracer(directory: Path) -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library, source = directory / "crashtrace.so", Path(__file__).with_name("crashtrace.c")
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True, capture_output=True
    )
    return library


def run(
    seed: int,
    faults: int,
    progress: Callable[[int], None] = lambda _: None,
    durability: str = "fsync",
    only: tuple[str, ...] = tuple(OPERATIONS),
) -> Report:
    """Every operation; `faults` bounds n (500 in a full run)."""
    report = Report("oom", seed, durability=durability, faults_wanted=min(faults, N_MAX))
    with workplace() as place:
        library = _build_tracer(place)
        report.notes["c_stacks"] = library is not None
        templates = Templates(place / "templates", durability)
        report.acked = templates.acked_count
        (place / "templates.pickle").write_bytes(pickle.dumps(templates))
        heaps = []
        if _has_testcapi():
            heaps.append("python")
        if allocate_fail_at(0):
            heaps.append("core")
        report.notes["heaps"] = heaps
        if "core" not in heaps:
            report.notes["core_heap"] = "this build has no hook (MQCORE_CFLAGS=-DMQCORE_ALLOC_FAULT): C unit tests only"
        suite = _Suite(place, report, progress, library)
        for heap in heaps:
            for operation in only:
                suite.exhaust(operation, heap, min(faults, N_MAX))
    return report


def _has_testcapi() -> bool:
    try:
        return hasattr(importlib.import_module("_testcapi"), "set_nomemory")
    except ImportError:
        return False


if __name__ == "__main__":
    _place, _operation, _heap, _first, _last, _durability = sys.argv[1:7]
    import logging

    logging.getLogger("mqcore").setLevel(logging.CRITICAL)
    _Attempts(Path(_place), _operation, _heap, _durability).run(int(_first), int(_last))
