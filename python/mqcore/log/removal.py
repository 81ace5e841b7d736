"""Remove a directory of a deleted topic: its own files only, no link followed, nothing outside reached.

Invariant: only plain files and the directory itself are removed; anything else in it is an error, and stays.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mqcore.log import layout

if TYPE_CHECKING:
    from mqcore._native.io import Io


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
