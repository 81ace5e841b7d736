#!/usr/bin/env bash
# resolve.sh   put the jars of Kafka's tools and broker into build/kafka/{tools,broker}, once per pom.
# Needs a JDK and Maven: installed where we are root on Debian, else the line that installs them is printed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
"$root/tools/need.sh" java openjdk-17-jre-headless
"$root/tools/need.sh" mvn maven

for kind in tools broker; do
    directory=$root/build/kafka/$kind
    sum=$(sha256sum <"$here/pom-$kind.xml")
    if [ -f "$directory/.pom" ] && [ "$(cat "$directory/.pom")" = "$sum" ]; then continue; fi
    echo "kafka: resolving the jars of pom-$kind.xml"
    rm -rf "$directory"
    mkdir -p "$directory"
    # A registry can fail for a moment: three tries, then the last error stands.
    for try in 1 2 3; do
        if mvn -q -B -f "$here/pom-$kind.xml" dependency:copy-dependencies \
            -DoutputDirectory="$directory" -DincludeScope=runtime; then break; fi
        [ $try -lt 3 ] || exit 1
        sleep 5
    done
    printf '%s\n' "$sum" >"$directory/.pom"
done
