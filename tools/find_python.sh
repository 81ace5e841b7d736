#!/usr/bin/env bash
# find_python.sh   print a Python >= 3.11 that can make a virtual environment and build extensions (Python.h).
# $PYTHON wins. Else the first that fits of python3.11, python3, python3.12, python3.13 (pyenv's shims fail where their version
# is not active, so each is run, not just found). None: Debian's is installed, or the line that does it is printed.
set -euo pipefail
here=$(dirname "$0")

fits() {
    "$1" -c '
import ensurepip, os, sys, sysconfig, venv
ok = sys.version_info >= (3, 11) and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
sys.exit(0 if ok else 1)' >/dev/null 2>&1
}

for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13 /usr/bin/python3 /usr/bin/python3.11}; do
    if fits "$candidate"; then command -v "$candidate"; exit 0; fi
done
if [ -n "${PYTHON:-}" ]; then
    echo "find_python.sh: $PYTHON is no Python >= 3.11 with ensurepip and Python.h" >&2
    exit 1
fi
"$here/need.sh" /usr/bin/python3 python3 python3-venv python3-dev
fits /usr/bin/python3 || "$here/need.sh" /nowhere/python3-venv-and-Python.h python3-venv python3-dev >&2 || true
fits /usr/bin/python3 || { echo "find_python.sh: no Python >= 3.11 here; set PYTHON=/path/to/python" >&2; exit 1; }
echo /usr/bin/python3
