#!/usr/bin/env bash
# install.sh   the programs of a PostgreSQL server for the tests of this folder; each test run starts a server of its own.
# Debian's package is installed where we are root, else the line that installs it is printed.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
if compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null; then exit 0; fi
# Debian keeps the server's own programs off the PATH; this one comes with the server.
"$root/tools/need.sh" pg_createcluster postgresql
compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null || {
    echo "install.sh: no PostgreSQL server in /usr/lib/postgresql. On Debian or Ubuntu: sudo apt-get install -y postgresql" >&2
    exit 1
}
