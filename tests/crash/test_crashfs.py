"""What the model of a disk says of a write that syncs: it may be lost or torn while it runs, never after it returned."""

from __future__ import annotations

from mqcore.torture.crashfs import FLAG_DIRECTORY, FLAG_DSYNC, MODELS, Call, Disk, Op

ROOT, PATH = "/s", "/s/f"


def test_a_write_that_syncs_may_be_torn_until_it_has_returned() -> None:
    disk = Disk(ROOT)
    disk.feed(Call(Op.OPEN, 0, 0, 0, PATH, "", b""))
    disk.feed(Call(Op.SYNC, FLAG_DIRECTORY, 1, 0, ROOT, "", b""))
    disk.feed(Call(Op.WRITE, FLAG_DSYNC, 0, 0, PATH, "", b"x" * 8192))
    sizes = {len(disk.crash(model, seed)[PATH] or b"") for model in MODELS for seed in range(20)}
    assert {0, 8192} < sizes, "lost, whole, and torn"
    disk.feed(Call(Op.MARK, 0, 0, 0, "", "", b"acknowledged"))
    assert {disk.crash(model, seed)[PATH] for model in MODELS for seed in range(20)} == {b"x" * 8192}
