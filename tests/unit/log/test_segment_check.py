"""A segment check finds every changed byte, loses no batch that is whole, and never mistakes other bytes for one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore._native import batch as native
from mqcore.log import segment_check
from mqcore.log.internal_records import encode
from mqcore.log.segment_check import Bytes, SegmentCheck, SegmentChecker
from tests.support.fake_log import decode


def segment(counts: list[int], base: int = 100, epoch: int = 3, values: bytes = b"value") -> list[bytes]:
    """Batches of so many records each, numbered from base on."""
    batches = []
    for number, count in enumerate(counts):
        batch = encode([(b"k%d" % number, values + b"%d" % i) for i in range(count)], 1000 + number)
        native.assign(batch, base, epoch)
        base += count
        batches.append(bytes(batch))
    return batches


def check(data: bytes, base: int = 100, **options: object) -> SegmentCheck:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        told = bytearray()

        def tell(piece: memoryview, position: int) -> None:
            assert position == len(told)
            told.extend(piece)

        with Bytes(file.name) as opened:
            options.setdefault("epoch_of", lambda offset: 3)
            found = SegmentChecker(opened, base, on_bytes=tell, **options).run()  # type: ignore[arg-type]
        size = options.get("size", len(data))
        assert told == data[:size]  # type: ignore[misc]
        return found


@pytest.fixture(autouse=True, params=[4 << 20, 400])
def _piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds at any size of the pieces."""
    monkeypatch.setattr(segment_check, "PIECE_BYTES", request.param)


def test_a_sound_segment_is_sound() -> None:
    batches = segment([3, 1, 5, 2, 40, 1])
    found = check(b"".join(batches), below=152)
    assert (found.bad, found.misnumbered) == ([], [])
    assert (found.batches, found.records, found.next_offset, found.max_timestamp) == (6, 52, 152, 1005)
    assert check(b"").batches == 0
    assert check(b"".join(batches) + b"tail", size=len(b"".join(batches))).bad == []


def test_every_single_bit_of_a_segment_matters() -> None:
    """T5: each bit of each byte; what is lost is at most the batch that was hit."""
    batches = segment([2, 3, 1, 2, 2])
    data = b"".join(batches)
    starts = [sum(map(len, batches[:i])) for i in range(len(batches))]
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        found = check(bytes(flipped), below=110)
        hit = max(i for i, start in enumerate(starts) if start <= place)
        assert found.bad or found.misnumbered, place
        lost = sum(bad.next_offset - bad.offset for bad in found.bad if bad.next_offset >= 0)
        assert lost <= [2, 3, 1, 2, 2][hit]
        for bad in found.bad:
            assert (bad.position, bad.end) == (starts[hit], [*starts, len(data)][hit + 1])
        for wrong in found.misnumbered:
            assert wrong.position == starts[hit]
            right = decode(batches[hit], wrong.right_base_offset)[0].offset
            assert (right, wrong.right_leader_epoch) == (100 + [0, 2, 5, 6, 8][hit], 3)
        assert found.batches + len(found.bad) == 5


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=12),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 60), st.binary(min_size=1, max_size=1)), min_size=1, max_size=3),
)
@settings(max_examples=150)
def test_any_damage_leaves_the_other_batches(counts: list[int], damage: list[tuple[float, int, bytes]]) -> None:
    batches = segment(counts)
    data = bytearray(b"".join(batches))
    good = dict.fromkeys(range(len(batches)), True)
    starts = [sum(map(len, batches[:i])) for i in range(len(batches) + 1)]
    for where, length, byte in damage:
        at = int(where * (len(data) - 1))
        for i in range(at, min(at + length, len(data))):
            data[i] = byte[0]
    for i, batch in enumerate(batches):
        good[i] = data[starts[i] : starts[i + 1]] == batch
    rows: list[int] = []
    total = sum(counts)
    found = check(bytes(data), below=100 + total, on_rows=lambda r: rows.extend(int(p) for p in r["position"]))
    if all(good.values()):
        assert found.bad == []
    # Batches apart from damage on both sides are never given up; those just behind it may be (no chain to prove them).
    for i in range(len(batches)):
        if all(good.get(j, True) for j in (i - 1, i, i + 1)):
            assert starts[i] in rows
    assert all(position in starts for position in rows)
    covered = sum(bad.end - bad.position for bad in found.bad)
    sizes = {start: starts[i + 1] - start for i, start in enumerate(starts[:-1])}
    assert covered + sum(sizes[position] for position in rows) == len(data)


@given(st.binary(max_size=3000), st.integers(0, 1000))
def test_any_bytes_are_findings_not_exceptions(data: bytes, base: int) -> None:
    found = check(data, base=base)
    assert sum(bad.end - bad.position for bad in found.bad) == len(data)
    assert found.records == 0


def test_a_batch_inside_a_value_is_not_taken_for_one_of_the_log() -> None:
    inner = encode([(None, b"inner")] * 4, 5)
    native.assign(inner, 102, 3)  # as plausible as can be
    outer = encode([(b"k", b"x" * 70 + bytes(inner) + b"y" * 100)], 5)
    native.assign(outer, 101, 3)
    first, _, last, *_ = segment([1, 1, 3, 1])
    data = bytearray(first + outer + last)
    data[len(first) + 11] ^= 4  # the outer batch's length: nothing says where it ends
    found = check(bytes(data), below=105)
    assert [(bad.offset, bad.next_offset) for bad in found.bad] == [(101, 102)]
    assert found.bad[0].end == len(first) + len(outer)


def test_zeros_torn_tails_and_gaps_are_told_apart() -> None:
    batches = segment([2, 2, 2])
    assert check(b"".join(batches) + bytes(500)).bad[0].what == "only zeros follow"
    assert check(b"".join(batches)[:-5]).bad[0].what == "the last batch is incomplete"
    gap = check(batches[0] + batches[2])
    assert [(bad.position == bad.end, bad.offset, bad.next_offset) for bad in gap.bad] == [(True, 102, 104)]
    assert check(batches[0] + batches[2], allow_gaps=True).bad == []
    assert [bad.offset for bad in check(batches[0] + batches[0] + batches[1]).bad] == [102]


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    data = b"".join(segment([5] * 20))
    path.write_bytes(data)
    with Bytes(str(path)) as file:
        path.write_bytes(data[:100])
        found = SegmentChecker(file, 100).run()
    assert found.bad


def test_bad_sectors_are_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    data = b"".join(segment([5] * 100))
    path.write_bytes(data)
    real = segment_check.os.pread

    def pread(fd: int, size: int, position: int) -> bytes:
        if position < 4096 < position + size or 4096 <= position < 8192:
            raise OSError(5, "EIO")
        return real(fd, size, position)

    monkeypatch.setattr(segment_check.os, "pread", pread)
    with Bytes(str(path)) as file:
        found = SegmentChecker(file, 100, below=600).run()
        assert file.unreadable == {4096}
    assert [bad.what for bad in found.bad] == ["the disk cannot read it"]
    assert found.records > 200
