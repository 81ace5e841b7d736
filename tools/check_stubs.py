"""Compare the stubs of mqcore._native with the built modules: every name, every signature.

A native module without a .pyi, a .pyi without a module, or a difference that mypy.stubtest finds, is an error. What
Cython adds to every module and class by itself is allowed below, and nothing else.

Usage: python -P tools/check_stubs.py   (after `make build`); prints what differs, exit code 1 if anything does.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "python" / "mqcore" / "_native"
BINDINGS = ROOT / "bindings"

# Names that Cython gives to modules and extension types: no part of what a caller may use. (Of __init__ it tells no
# signature at run time, so there is nothing to compare.)
ALLOWED = r"""
mqcore\._native\.\w+(\.\w+)*\.__(reduce|setstate)_cython__
mqcore\._native\.\w+(\.\w+)*\.__(reduce|setstate|pyx_vtable|pyx_capi|test|getstate)__
mqcore\._native\.\w+\.__pyx_\w+
mqcore\._native\.\w+\.__test__
mqcore\._native\.\w+\.\w+\.__init__
mqcore\._native\.\w+\.\w+\.__(buffer|release_buffer)__
"""


def module_names() -> list[str]:
    """Names of the native modules that the bindings define, in order."""
    return sorted(source.stem for source in BINDINGS.glob("*.pyx"))


def missing_files() -> list[str]:
    """One sentence for each stub without a source, source without a stub, source that is not built."""
    problems = []
    modules, stubs = set(module_names()), {stub.stem for stub in NATIVE.glob("*.pyi")}
    problems += [f"bindings/{name}.pyx has no python/mqcore/_native/{name}.pyi" for name in sorted(modules - stubs)]
    problems += [f"python/mqcore/_native/{name}.pyi has no bindings/{name}.pyx" for name in sorted(stubs - modules)]
    built = {library.name.partition(".")[0] for library in NATIVE.glob("*.so")}
    problems += [f"mqcore._native.{name} is not built (make build)" for name in sorted(modules - built)]
    return problems


def run_stubtest(names: list[str]) -> subprocess.CompletedProcess[str]:
    """Run mypy.stubtest on these native modules; its output says what differs."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as allowlist:
        allowlist.write(ALLOWED)
        allowlist.flush()
        command = [sys.executable, "-P", "-m", "mypy.stubtest", "--concise", "--ignore-unused-allowlist"]
        command += ["--ignore-disjoint-bases", "--mypy-config-file", str(ROOT / "pyproject.toml")]
        command += ["--allowlist", allowlist.name]
        command += [f"mqcore._native.{name}" for name in names]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def main() -> int:
    problems = missing_files()
    names = module_names()
    if not problems and names:
        result = run_stubtest(names)
        if result.returncode != 0:
            problems.append(result.stdout + result.stderr)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"stubs: {len(names)} native modules agree with their stubs")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
