"""What a machine gives a store: processor, kernel, file system, cost of a sync, limits.

Every probe is a function of its own that returns plain values and never raises: what cannot be found out is None.
Probes that write do so in a new file that is removed again, on the file system of the store.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MADV_POPULATE_READ = 22  # Linux 5.14; absent from Python's mmap module in 3.11
_FALLOC_KEEP_SIZE = 1
_BLOCK_BYTES = 4096
# What the core's checksums look for, by the names of /proc/cpuinfo (x86, then ARM).
CPU_FEATURES = ("sse4_2", "pclmulqdq", "avx512f", "avx512vl", "vpclmulqdq", "crc32", "pmull")
# File systems whose fsync means less than on a local disk, and why.
WEAK_FILE_SYSTEMS = {
    "tmpfs": "it lies in memory: nothing survives a power loss, whatever the durability",
    "ramfs": "it lies in memory: nothing survives a power loss, whatever the durability",
    "overlay": "an image layer: bind-mount a volume for data that must outlive the container",
    "nfs": "a network file system: locks and syncs are the server's to keep",
    "nfs4": "a network file system: locks and syncs are the server's to keep",
    "cifs": "a network file system: locks and syncs are the server's to keep",
    "9p": "a shared folder: syncs are the host's to keep",
    "fuse": "a user-space file system: syncs are that program's to keep",
}


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The file system that holds a path. options: as mounted."""

    kind: str
    mount_point: str
    device: str
    options: tuple[str, ...]
    total_bytes: int
    free_bytes: int
    free_inodes: int


@dataclass(frozen=True, slots=True)
class SyncCost:
    """Microseconds of one 4 KiB positioned write, and of the fdatasync after it, over `rounds` of them."""

    rounds: int
    write_p50_us: float
    write_p99_us: float
    sync_p50_us: float
    sync_p99_us: float


def existing_parent(path: Path) -> Path:
    """The path itself, or its nearest ancestor that exists: where a new store would be made."""
    here = path.absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    return here if here.is_dir() else here.parent


def cpu_features() -> list[str]:
    """The features of CPU_FEATURES that the kernel reports, in that order."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            present = set(value.split())
            return [feature for feature in CPU_FEATURES if feature in present]
    return []


def crc32c_path() -> tuple[str, tuple[str, ...]]:
    """(the CRC-32C implementation in use, all that this processor can run)."""
    from mqcore._native import crc32c

    return crc32c.active(), crc32c.implementations()


def kernel() -> str:
    return f"{platform.system()} {platform.release()}"


def file_system(path: Path) -> FileSystem:
    """The file system of a path (or of the nearest ancestor that exists)."""
    real = str(existing_parent(path).resolve())
    best = ("", "unknown", "", "")
    try:
        rows = [line.split(" ") for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        rows = []
    for device, escaped, kind, options, *_ in rows:
        point = escaped.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):  # >=: a later mount hides an earlier one
            best = (point, kind, device, options)
    usage = os.statvfs(real)
    return FileSystem(
        kind=best[1],
        mount_point=best[0],
        device=best[2],
        options=tuple(best[3].split(",")) if best[3] else (),
        total_bytes=usage.f_blocks * usage.f_frsize,
        free_bytes=usage.f_bavail * usage.f_frsize,
        free_inodes=usage.f_favail,
    )


@contextmanager
def _scratch_file(directory: Path) -> Iterator[tuple[int, str]]:
    """A new file on a directory's file system, removed afterwards."""
    descriptor, name = tempfile.mkstemp(prefix=".mqcore-doctor-", dir=directory)
    try:
        yield descriptor, name
    finally:
        os.close(descriptor)
        os.unlink(name)


def sync_cost(path: Path, *, seconds: float = 1.0, rounds: int = 400) -> SyncCost | None:
    """Measure 4 KiB writes, each with an fdatasync, into space that was written before (as the journal does).

    Stops after `rounds` or `seconds`, whatever comes first. None where nothing can be written.
    """
    writes, syncs = [], []
    try:
        with _scratch_file(existing_parent(path)) as (descriptor, _):
            os.pwrite(descriptor, b"\0" * (_BLOCK_BYTES * 256), 0)
            os.fsync(descriptor)
            until = time.perf_counter() + seconds
            block = os.urandom(_BLOCK_BYTES)
            for number in range(rounds):
                began = time.perf_counter()
                os.pwrite(descriptor, block, number % 256 * _BLOCK_BYTES)
                written = time.perf_counter()
                os.fdatasync(descriptor)
                synced = time.perf_counter()
                writes.append((written - began) * 1e6)
                syncs.append((synced - written) * 1e6)
                if synced > until and number >= 10:
                    break
    except OSError:
        return None
    return SyncCost(len(syncs), statistics.median(writes), _p99(writes), statistics.median(syncs), _p99(syncs))


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def can_preallocate(path: Path) -> bool | None:
    """Whether fallocate(FALLOC_FL_KEEP_SIZE) works there: space is then taken before the data comes. None: unknown."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "fallocate"):
        return False
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    try:
        with _scratch_file(existing_parent(path)) as (descriptor, _):
            return bool(libc.fallocate(descriptor, _FALLOC_KEEP_SIZE, 0, 1 << 20) == 0)
    except OSError:
        return None


def can_populate(path: Path) -> bool | None:
    """Whether madvise(MADV_POPULATE_READ) works: a bad sector is then an error, not a signal. None: unknown."""
    try:
        with _scratch_file(existing_parent(path)) as (descriptor, _):
            os.pwrite(descriptor, b"x" * _BLOCK_BYTES, 0)
            with mmap.mmap(descriptor, _BLOCK_BYTES, prot=mmap.PROT_READ) as mapped:
                mapped.madvise(_MADV_POPULATE_READ)
    except OSError as error:
        return False if error.errno == errno.EINVAL else None
    return True


def limits() -> dict[str, int | None]:
    """nofile and memlock (soft, of this process; None is unlimited), max_map_count (the kernel's, for each process)."""

    def soft(which: int) -> int | None:
        value = resource.getrlimit(which)[0]
        return None if value == resource.RLIM_INFINITY else value

    try:
        maps: int | None = int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
    except (OSError, ValueError):
        maps = None
    return {
        "nofile": soft(resource.RLIMIT_NOFILE),
        "memlock_bytes": soft(resource.RLIMIT_MEMLOCK),
        "max_map_count": maps,
    }


def shared_memory() -> tuple[bool, int]:
    """(/dev/shm is a tmpfs that we may write, its free bytes): where followers of other processes watch a store."""
    place = Path("/dev/shm")
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return False, 0
    return file_system(place).kind == "tmpfs", shutil.disk_usage(place).free
