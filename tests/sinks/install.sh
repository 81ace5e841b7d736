#!/usr/bin/env bash
# install.sh   the programs of a PostgreSQL server for the tests of this folder; each test run starts a server of its own.
# Debian's package is installed where we are root, else the line that installs it is printed.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
if compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null; then exit 0; fi
"$root/tools/need.sh" postgres postgresql || compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null
