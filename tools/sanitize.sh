#!/usr/bin/env bash
# sanitize.sh [PYTEST ARGS]   build the modules with ASan and UBSan beside the checkout's own, and run the unit tests on them.
# The sanitizer's library must be there before Python starts: without the preload the first import ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=build/sanitized
mkdir -p $copy
# A copy of the sources: in place, sanitized modules would lie beside the ordinary ones and win or lose by chance.
tar -cf - --exclude='*.so' setup.py pyproject.toml README.md LICENSE mqcore bindings python tests tools | tar -xf - -C $copy
cd $copy
MQCORE_SANITIZE=1 MQCORE_BUILD_DIR=$PWD/objects python -P setup.py -q build_ext --inplace >build.log 2>&1 || { tail -n 40 build.log; exit 1; }
preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
LD_PRELOAD=$preload ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=$PWD/python \
    python -P -m pytest -s -q -p no:xdist -p no:cacheprovider --timeout 600 "${@:-tests/unit}"
