"""A C compiler for wheels: `zig cc` with an old glibc as target, so that one build runs on every Linux since then.

Used as CC="python -P tools/zigcc.py" by tools/build_wheel.py. Drops what Python's own build flags say about this
machine: its library folders and run paths, and flags that zig's clang does not know.
"""

from __future__ import annotations

import os
import platform
import sys

# 2.28 is manylinux_2_28: Debian 10, RHEL 8 and later. (2.17 hides getrandom and copy_file_range.)
GLIBC = os.environ.get("MQCORE_GLIBC", "2.28")
DROPPED = ("-Wl,-rpath", "-Wl,--enable-new-dtags", "-fno-semantic-interposition", "-march=", "-mtune=")


def keep(argument: str) -> bool:
    """Whether zig may see an argument: no run paths, no folder of this Python (its libraries are for this glibc)."""
    if argument.startswith("-L"):
        return not argument[2:].startswith((sys.prefix, sys.base_prefix))
    return not argument.startswith(DROPPED)


def main() -> None:
    target = f"{platform.machine()}-linux-gnu.{GLIBC}"
    kept = [argument for argument in sys.argv[1:] if keep(argument)]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "ziglang", "cc", "-target", target, *kept])


if __name__ == "__main__":
    main()
