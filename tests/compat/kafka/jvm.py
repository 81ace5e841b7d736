"""Kafka's jars and the JVM that runs them. `make kafka-jars` (resolve.sh) brings both."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.strict import needs

HERE = Path(__file__).resolve().parent
JARS = HERE.parents[2] / "build" / "kafka"
_FLAGS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")


def java() -> str:
    """The java program; skips (or fails in a strict run) where it or the jars are missing."""
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    needs(program is not None and Path(program).exists(), "a JDK", "make kafka-jars")
    needs((JARS / "tools" / ".pom").exists() and (JARS / "broker" / ".pom").exists(), "Kafka's jars", "make kafka-jars")
    assert program is not None
    return program


def command(kind: str, main_class: str, *arguments: str) -> list[str]:
    """The command that runs a class on the jars of "tools" or "broker"."""
    logging = f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"
    return [java(), *_FLAGS, logging, "-cp", f"{JARS / kind}/*", main_class, *arguments]


def run(kind: str, main_class: str, *arguments: str, timeout_s: float = 110) -> subprocess.CompletedProcess[str]:
    """Run a class to its end."""
    return subprocess.run(
        command(kind, main_class, *arguments), capture_output=True, text=True, timeout=timeout_s, check=False
    )
