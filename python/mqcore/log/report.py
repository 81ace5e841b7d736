"""What a pass of maintenance did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class MaintenanceReport:
    """Counts of one pass."""

    sealed: int = 0  # segments
    deleted: int = 0  # segments, by retention
    expired: int = 0  # producers that were forgotten, in all partitions
    compacted: int = 0  # partitions
    digested: int = 0  # bytes read to make seal digests
    removed: int = 0  # directories of deleted topics
    committed: int = 0  # pairs of views
