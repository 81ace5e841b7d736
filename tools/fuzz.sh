#!/usr/bin/env bash
# fuzz.sh SECONDS JOBS   run each libFuzzer target of mqcore/fuzz for so many seconds, JOBS at a time.
# The corpus (build/fuzz-corpus, seeded from mqcore/tests/corpus) is kept between runs. Skips where clang is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}
jobs=${2:-2}

if ! ls mqcore/fuzz/fuzz_*.c >/dev/null 2>&1; then echo "fuzz: no targets"; exit 0; fi
if ! tools/need.sh --optional clang; then
    echo "fuzz: skipped, no clang (apt-get install clang libclang-rt-14-dev)"
    exit 0
fi
tools/need.sh cmake cmake make
mkdir -p build
cmake -S mqcore -B build/fuzz -DMQCORE_FUZZ=ON -DCMAKE_C_COMPILER=clang >build/fuzz.log 2>&1 || { cat build/fuzz.log; exit 1; }
cmake --build build/fuzz -j"$jobs" >build/fuzz.log 2>&1 || { tail -n 40 build/fuzz.log; exit 1; }

one() {
    local target=$1 seconds=$2 name corpus
    name=$(basename "$target")
    corpus=build/fuzz-corpus/$name
    mkdir -p "$corpus" build/fuzz-findings
    [ ! -d "mqcore/tests/corpus/$name" ] || cp -n "mqcore/tests/corpus/$name"/* "$corpus"/ 2>/dev/null || true
    if ! "$target" -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 \
        -artifact_prefix="build/fuzz-findings/$name-" "$corpus" >"build/$name.log" 2>&1; then
        echo "FAIL $name"
        tail -n 40 "build/$name.log"
        return 1
    fi
    echo "ok   $name $(sed -n 's/^stat::number_of_executed_units: */runs=/p' "build/$name.log")"
}
export -f one
targets=()
for source in mqcore/fuzz/fuzz_*.c; do targets+=("build/fuzz/$(basename "${source%.c}")"); done
printf '%s\0' "${targets[@]}" | xargs -0 -P "$jobs" -I{} bash -c 'one "$1" "$2"' _ {} "$seconds"
