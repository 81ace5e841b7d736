#!/usr/bin/env bash
# need.sh PROGRAM PACKAGE...   make sure that a program (or a file, if it has a slash) is there.
# Missing on Debian: as root the packages are installed, else the one line that installs them is printed.
# --optional as the first argument: never installs; exit 1 without a word where the program is missing.
set -euo pipefail

optional=0
if [ "${1:-}" = --optional ]; then optional=1; shift; fi
program=${1:?usage: need.sh [--optional] PROGRAM PACKAGE...}
shift

there() {
    case $program in
        */*) [ -e "$program" ] ;;
        *) command -v "$program" >/dev/null 2>&1 ;;
    esac
}

if there; then exit 0; fi
if [ $optional = 1 ]; then exit 1; fi
line="apt-get update && apt-get install -y --no-install-recommends $*"
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "need.sh: $program is missing; installing $*" >&2
    # Once per boot is enough for the lists; without lists apt finds nothing on a fresh image.
    (
        flock 9
        [ -n "$(find /var/lib/apt/lists -name '*Packages*' -mmin -720 2>/dev/null | head -n 1)" ] || apt-get update -q >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2 ||
            { apt-get update -q >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2; }
    ) 9>"${TMPDIR:-/tmp}/mqcore-apt.lock"
    hash -r
    there && exit 0
fi
echo "need.sh: $program is missing. On Debian or Ubuntu this line installs it:" >&2
echo "    sudo sh -c '$line'" >&2
exit 1
