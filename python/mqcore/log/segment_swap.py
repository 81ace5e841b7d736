"""Put a rewritten segment in the place of one or more old ones, so that a crash at any point leaves one or the other.

    1. it is written, indexed, digested and synced in a directory of its own: <base>.cleaned/
    2. its files are renamed to <base>.*.swap beside the old ones, the .log last: from here on it is decided
    3. the old segments' files go (not the .log that has the new one's name); synced
    4. .swap is taken off the names, from the .log last, which replaces the old one; synced

Invariants:
    1. A .log.swap is whole and synced: its name is given after that.
    2. Its batches cover the offsets of every segment that it replaces: which ones those are can be told from it.
    3. Each step can be done again: after a crash recovery starts at step 3, whatever was done of 3 and 4.
    4. An index is never older than its log: at step 3 the old ones go, and recovery makes new ones.
    5. A .swap that fails its checks replaces nothing: it goes to quarantine, and what it would have replaced stays.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from mqcore.log import layout

if TYPE_CHECKING:
    from mqcore._native.io import Io

_INDEXES = (layout.INDEX, layout.TIME_INDEX, layout.TXN_INDEX)
_BESIDE = (*_INDEXES, layout.DIGEST)


def work_directory(directory: str, base: int) -> str:
    """Where the new segment is made."""
    return os.path.join(directory, layout.segment_name(base, layout.CLEANED))


def swap_name(base: int, suffix: str = layout.LOG) -> str:
    return layout.segment_name(base, suffix + layout.SWAP)


def discard(io: Io, directory: str, base: int) -> None:
    """Remove what step 1 made. Nothing there: nothing."""
    work = work_directory(directory, base)
    if layout.require_kind(work, "dir"):
        for name in sorted(os.listdir(work)):
            io.unlink(os.path.join(work, name))
        io.rmdir(work)


def stage(io: Io, directory: str, base: int) -> None:
    """Step 2. On an error before the .log has its new name nothing has happened but litter, which `discard_swap` and
    `discard` remove."""
    work = work_directory(directory, base)
    for suffix in (*_BESIDE, layout.LOG):
        path = os.path.join(work, layout.segment_name(base, suffix))
        if layout.lstat_kind(path) == "file":
            io.rename(path, os.path.join(directory, swap_name(base, suffix)))
    io.sync_dir(directory)


def discard_swap(io: Io, directory: str, base: int) -> None:
    """Undo step 2, while step 3 has not begun: the .log first."""
    names = [swap_name(base, suffix) for suffix in (layout.LOG, *_BESIDE)]
    there = [name for name in names if layout.lstat_kind(os.path.join(directory, name)) == "file"]
    for name in there:
        io.unlink(os.path.join(directory, name))
    if there:
        io.sync_dir(directory)


def finish(io: Io, directory: str, base: int, replaced: Iterable[int], *, keep_indexes: bool = True) -> None:
    """Steps 3 and 4. replaced: base offsets of the old segments, `base` among them or not. keep_indexes: the .swap
    indexes are known to belong to the .log.swap; otherwise they go, and whoever opens the segment makes new ones."""
    for old in replaced:
        for suffix in layout.SEGMENT_SUFFIXES:
            if old != base or suffix != layout.LOG:
                _unlink(io, os.path.join(directory, layout.segment_name(old, suffix)))
    for suffix in _BESIDE:
        _unlink(io, os.path.join(directory, layout.segment_name(base, suffix)))
        if not keep_indexes:
            _unlink(io, os.path.join(directory, swap_name(base, suffix)))
    io.sync_dir(directory)
    for suffix in (*_BESIDE, layout.LOG):
        path = os.path.join(directory, swap_name(base, suffix))
        if layout.lstat_kind(path) == "file":
            io.rename(path, os.path.join(directory, layout.segment_name(base, suffix)))
    io.sync_dir(directory)
    discard(io, directory, base)


def _unlink(io: Io, path: str) -> None:
    if layout.lstat_kind(path) == "file":
        io.unlink(path)


def unfinished(directory: str) -> list[int]:
    """Base offsets of the swaps that were decided and not finished, ascending."""
    bases = []
    for name in os.listdir(directory):
        parsed = layout.parse_segment_file(name)
        if parsed is not None and parsed.state == layout.SWAP and parsed.suffix == layout.LOG:
            layout.require_kind(os.path.join(directory, name), "file")
            bases.append(parsed.base_offset)
    return sorted(bases)


def recover(io: Io, directory: str, quarantine: Callable[[str, str], None]) -> list[int]:
    """Finish what a crash interrupted, before anything else looks at the segments; the base offsets of the segments
    that were swapped in. Their indexes are missing: they are made by the scan that follows.

    quarantine(path, reason): takes a .log.swap away that is damaged (invariant 5).
    """
    done = []
    for base in unfinished(directory):
        path = os.path.join(directory, swap_name(base))
        end, problem = _covered(path, base)
        if problem:
            quarantine(path, problem)
            discard_swap(io, directory, base)
            continue
        replaced = [old for old in layout.list_segments(directory) if base <= old < end]
        finish(io, directory, base, replaced, keep_indexes=False)
        done.append(base)
    for name in sorted(os.listdir(directory)):
        parsed = layout.parse_segment_file(name)
        path = os.path.join(directory, name)
        if parsed is not None and parsed.state == layout.SWAP and layout.lstat_kind(path) == "file":
            io.unlink(path)  # of a step 2 that never came to the .log, or of a step 4 that did
        elif name.endswith(layout.CLEANED) and layout.lstat_kind(path) == "dir":
            discard(io, directory, int(name[: -len(layout.CLEANED)]))
    return done


def _covered(path: str, base: int) -> tuple[int, str]:
    """(the offset after the last batch, "" or what is wrong) of a .log.swap; every CRC is checked."""
    from mqcore._native.batch import scan

    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return base, "it is empty"
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            rows, problem = scan(mapped)
    if problem is not None:
        return base, problem.what
    offsets = rows["base_offset"].tolist()
    if offsets[0] < base or any(a >= b for a, b in pairwise(offsets)):
        return base, "its offsets do not rise from its base offset"
    return int(rows["last_offset"][-1]) + 1, ""
