"""Fixtures that every test may use: stores on a real disk, a store already open, the strict skip."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadlines: the machine is shared, and a slow example is no bug. CI draws the same examples each time.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture
def store_path() -> Iterator[Path]:
    """A path for a store that does not exist yet, on a real disk: /tmp may be a tmpfs, where fsync means nothing.

    MQCORE_TEST_DIR names another place. Removed afterwards.
    """
    base = os.environ.get("MQCORE_TEST_DIR") or _disk_directory()
    directory = Path(tempfile.mkdtemp(prefix="mqcore-test-", dir=base))
    try:
        yield directory / "store"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """An empty directory where syncs cost nothing (a tmpfs, if there is one), for sweeps over many opens."""
    with tempfile.TemporaryDirectory(
        prefix="mqcore-test-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    ) as directory:
        yield Path(directory)


def _disk_directory() -> str:
    """The first of the usual places that is no tmpfs."""
    for place in (tempfile.gettempdir(), "/var/tmp", str(Path(__file__).resolve().parent.parent / "build")):
        if os.path.isdir(place) and _file_system(place) != "tmpfs":
            return place
    return tempfile.gettempdir()


def _file_system(path: str) -> str:
    """The type of the file system that holds a path, by the longest mount point; "" if the kernel does not say."""
    real, best, kind = os.path.realpath(path), "", ""
    try:
        with open("/proc/mounts", encoding="utf-8") as mounts:
            rows = [line.split() for line in mounts]
    except OSError:
        return ""
    for row in rows:
        point = row[1].encode().decode("unicode_escape")
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, row[2]
    return kind
