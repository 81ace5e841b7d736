"""What a disk may hold after a power loss: a trace of file-system calls replayed into every kind of crash state.

The model is stricter than ext4 on purpose (POSIX promises no more), so that what survives here survives elsewhere:
    1. A write or truncation is durable only when a later fsync/fdatasync of that file, or a syncfs, began after it, or
       when a write with O_DSYNC has returned; until then it may be kept, lost, torn at a sector, or leave zeros behind a
       grown length.
    2. A created, renamed or removed name is durable only when its directory (for a rename: one of the two) was synced.
       fsync of a file does not make its name durable.
    3. A rename is atomic: both names change or neither.
Models m1 to m7 choose what of the not yet durable is kept; the seed makes every choice repeatable.
Sources: Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014); the trace is made by iotrace.c.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

_HEAD = struct.Struct("<IIQQIIQ")
SECTOR_BYTES, PAGE_BYTES = 512, 4096


class Op(IntEnum):
    OPEN = 1
    WRITE = 2
    TRUNCATE = 3
    ALLOCATE = 4
    RENAME = 5
    LINK = 6
    UNLINK = 7
    MKDIR = 8
    RMDIR = 9
    SYNC = 10
    SYNCFS = 11
    MARK = 12


FLAG_CREATED, FLAG_DIRECTORY, FLAG_DSYNC, FLAG_TRUNCATED, FLAG_KEEP_SIZE = 1, 2, 4, 8, 16


@dataclass(frozen=True, slots=True)
class Call:
    """One recorded call. a, b: position, size or the number of records that stood when a sync began."""

    op: Op
    flags: int
    a: int
    b: int
    path: str
    other: str
    data: bytes


def read_trace(path: str | Path) -> list[Call]:
    """The calls of a trace file; a last record that was cut short (the process was killed) is left out."""
    raw, at, calls = Path(path).read_bytes(), 0, []
    while at + _HEAD.size <= len(raw):
        op, flags, a, b, n_path, n_other, n_data = _HEAD.unpack_from(raw, at)
        end = at + _HEAD.size + n_path + n_other + n_data
        if end > len(raw):
            break
        p = at + _HEAD.size
        name, other = raw[p : p + n_path].decode(), raw[p + n_path : p + n_path + n_other].decode()
        calls.append(Call(Op(op), flags, a, b, name, other, raw[p + n_path + n_other : end]))
        at = end
    return calls


@dataclass(slots=True)
class _Change:
    """A change of a file's bytes that is not durable yet. data None: a truncation to `position`."""

    number: int
    position: int
    data: bytes | None


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Change] = field(default_factory=list)
    directory: bool = False


@dataclass(slots=True)
class _Names:
    """A change of names that is not durable yet: path -> file, or None where the name goes."""

    number: int
    directories: frozenset[str]
    changes: dict[str, _File | None]


Image = dict[str, bytes | None]  # path -> bytes; None for a directory


def _apply(content: bytearray, change: _Change, *, torn: int | None = None, zeros: bool = False) -> None:
    """torn: only that many bytes arrive. zeros: the length grows, the bytes do not arrive."""
    if change.data is None:
        size = change.position
        if size <= len(content):
            del content[size:]
        else:
            content.extend(bytes(size - len(content)))
        return
    data = change.data if torn is None else change.data[:torn]
    end = change.position + len(data)
    if end > len(content):
        content.extend(bytes(end - len(content)))
    if zeros:
        return
    content[change.position : end] = data


class Disk:
    """The state of the disk while a trace is fed to it, call by call."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._durable_names: dict[str, _File] = {root: _File(directory=True)}
        self._names: dict[str, _File] = dict(self._durable_names)  # what the running process sees
        self._pending_names: list[_Names] = []
        self._number = 0
        self._syncing: _File | None = None  # the call before was a write to it that syncs
        self.marks: list[bytes] = []

    def feed(self, call: Call) -> None:
        """Apply one call of the trace. A write that syncs is durable from the next call on: a crash may fall into it."""
        if self._syncing is not None:
            self._make_durable(self._syncing, self._number)
            self._syncing = None
        handler = getattr(self, f"_on_{call.op.name.lower()}")
        handler(call)
        self._number += 1

    # -- calls -------------------------------------------------------------------------------------------------

    def _change_names(self, changes: dict[str, _File | None]) -> None:
        for path, file in changes.items():
            if file is None:
                self._names.pop(path, None)
            else:
                self._names[path] = file
        parents = frozenset(path.rpartition("/")[0] for path in changes)
        self._pending_names.append(_Names(self._number, parents, changes))

    def _on_open(self, call: Call) -> None:
        file = self._names.get(call.path)
        if file is None:
            self._change_names({call.path: _File()})
        elif call.flags & FLAG_TRUNCATED:
            file.pending.append(_Change(self._number, 0, None))

    def _on_write(self, call: Call) -> None:
        file = self._names.get(call.path)
        if file is None:  # written after its name was removed: nobody can see it after a crash
            return
        file.pending.append(_Change(self._number, call.a, call.data))
        if call.flags & FLAG_DSYNC:
            self._syncing = file

    def _on_truncate(self, call: Call) -> None:
        file = self._names.get(call.path)
        if file is not None:
            file.pending.append(_Change(self._number, call.a, None))

    def _on_allocate(self, call: Call) -> None:
        file = self._names.get(call.path)
        if file is None or call.flags & FLAG_KEEP_SIZE:
            return
        file.pending.append(_Change(self._number, call.a + call.b, b""))  # an empty write past the end: zeros

    def _on_rename(self, call: Call) -> None:
        changes: dict[str, _File | None] = {}
        inside = call.path + "/"
        for path, file in list(self._names.items()):
            if path == call.path or path.startswith(inside):
                changes[path] = None
                changes[call.other + path[len(call.path) :]] = file
        self._change_names(changes)

    def _on_link(self, call: Call) -> None:
        self._change_names({call.other: self._names[call.path]})

    def _on_unlink(self, call: Call) -> None:
        self._change_names({call.path: None})

    _on_rmdir = _on_unlink

    def _on_mkdir(self, call: Call) -> None:
        self._change_names({call.path: _File(directory=True)})

    def _make_durable(self, file: _File, before: int) -> None:
        for change in file.pending:
            if change.number < before:
                _apply(file.durable, change)
        file.pending = [change for change in file.pending if change.number >= before]

    def _make_names_durable(self, directory: str | None, before: int) -> None:
        kept = []
        for names in self._pending_names:
            if names.number < before and (directory is None or directory in names.directories):
                self._set(self._durable_names, names.changes)
            else:
                kept.append(names)
        self._pending_names = kept

    @staticmethod
    def _set(table: dict[str, _File], changes: dict[str, _File | None]) -> None:
        for path, file in changes.items():
            if file is None:
                table.pop(path, None)
            else:
                table[path] = file

    def _on_sync(self, call: Call) -> None:
        # call.a counts the records that stood when the sync began (I2 of iotrace.c): MARK records are among them.
        if call.flags & FLAG_DIRECTORY:
            self._make_names_durable(call.path, call.a)
            return
        file = self._names.get(call.path)
        if file is not None:
            self._make_durable(file, call.a)

    def _on_syncfs(self, call: Call) -> None:
        for each in self._names.values():
            self._make_durable(each, call.a)
        self._make_names_durable(None, call.a)

    def _on_mark(self, call: Call) -> None:
        self.marks.append(call.data)

    # -- crash states ------------------------------------------------------------------------------------------

    def pending_changes(self) -> int:
        """How much a crash now could lose: 0 means that every model gives the same state."""
        return len(self._pending_names) + sum(len(file.pending) for file in self._names.values())

    def crash(self, model: str, seed: int) -> Image:
        """The disk after a power loss now, under one of the models m1 .. m7."""
        rng = random.Random(f"{model}/{seed}/{self._number}")
        names = dict(self._durable_names)
        for pending in self._pending_names:
            if _keeps_names(model, rng):
                self._set(names, pending.changes)
        image: Image = {}
        for path, file in sorted(names.items()):
            parent = path.rpartition("/")[0]
            if path != self.root and image.get(parent, b"") is not None:
                continue  # its directory did not survive
            image[path] = None if file.directory else bytes(_content(file, model, rng))
        return image


def _keeps_names(model: str, rng: random.Random) -> bool:
    if model == "m1":
        return False
    if model in ("m4", "m7"):
        return rng.random() < 0.5
    return True


def _content(file: _File, model: str, rng: random.Random) -> bytearray:
    """Bytes of one file after the crash, from its durable bytes and the changes in flight."""
    content, pending = bytearray(file.durable), file.pending
    if model == "m1":
        return content
    if model in ("m2", "m7"):
        kept = pending
    elif model == "m3":
        kept = pending[: rng.randint(0, len(pending))]
    elif model == "m4":
        kept = [change for change in pending if rng.random() < 0.5]
    else:  # m5 torn last write, m6 grown with zeros: of a random prefix
        kept = pending[: rng.randint(0, len(pending))] if rng.random() < 0.5 else pending
    for change in kept[:-1]:
        _apply(content, change)
    if kept:
        last = kept[-1]
        if model == "m5" and last.data:
            step = rng.choice((SECTOR_BYTES, PAGE_BYTES))
            start = last.position % step  # a device writes whole sectors: the cut lies at a sector of the file
            cuts = [cut - start for cut in range(step, start + len(last.data), step) if cut > start]
            _apply(content, last, torn=rng.choice(cuts) if cuts else 0)
        else:
            _apply(content, last, zeros=model == "m6")
    return content


MODELS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7")


def materialise(image: Image, root: str, target: Path) -> None:
    """Write an image below `target` (a new directory); paths in it begin with `root`."""
    for path, content in image.items():
        place = target / path[len(root) :].lstrip("/")
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.write_bytes(content)
