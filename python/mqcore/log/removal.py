"""What goes with a deleted topic: its directories, and what the store's offset files say of its partitions.

Invariants:
    1. Only plain files and the directory itself are removed, no link is followed; anything else is an error, and stays.
    2. The offset files go by name: they say nothing of a deleted topic by the time that its name is used again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mqcore.log import layout

if TYPE_CHECKING:
    from mqcore._native.io import Io
    from mqcore.log.manager import LogStore


def remove_tree(io: Io, directory: str) -> None:
    """Unlink the files of a partition directory and remove it. One that is gone already is fine.

    Raises StoreFormatError if it is a link, or holds a link or a directory; StorageError.
    """
    if not layout.require_kind(directory, "dir"):
        return
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        layout.require_kind(path, "file")
        io.unlink(path)
    io.rmdir(directory)


def remove_condemned(store: LogStore) -> int:
    """Remove the directories of deleted topics, then their tombstones; how many directories went."""
    removed = 0
    for path in list(store.condemned):
        remove_tree(store.io, path)
        store.condemned.remove(path)
        removed += 1
    if removed:
        store.io.sync_dir(store.layout.topics)  # a tombstone must outlive what it stands for
    if not store.condemned:
        for topic_id in store.registry.deleted():
            store.registry.forget(topic_id)
    return removed


def forget_offsets(store: LogStore, name: str) -> None:
    """Before a topic of this name is made: recovery would take the old one's recovery points and log starts for its
    own, skip what the journal holds of it, and hide its records. Durable on return."""
    if name in store.stale_names:
        store.save_recovery_points()
        store.save_log_starts()
        store.save_cleaned()
        store.stale_names.clear()
