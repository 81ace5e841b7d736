"""Every line of an input is one record, or an error that names file and line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.cli.consume import format_json, format_text, formatter_of
from mqcore.cli.inputs import Item, read_csv, read_jsonl, read_lines
from mqcore.errors import InvalidRecordError


def test_lines_keep_bytes_and_lose_line_ends() -> None:
    assert [item.value for item in read_lines([b"a\n", b"b\r\n", b"\n", b"c"])] == [b"a", b"b", b"", b"c"]


def test_lines_with_a_separator_have_keys() -> None:
    items = list(read_lines([b"k:v:w\n", b"plain\n"], key_separator=":"))
    assert [(item.key, item.value) for item in items] == [(b"k", b"v:w"), (None, b"plain")]


def test_jsonl_objects() -> None:
    line = b'{"key": "k", "value": {"n": 1}, "headers": [["a", "x"], ["a", null]], "timestamp": "1970-01-01T00:00:01Z"}'
    (item,) = read_jsonl([line, b"\n"], "f")
    assert item == Item(b'{"n":1}', b"k", [("a", b"x"), ("a", None)], 1000)


def test_jsonl_without_value_is_the_value() -> None:
    (item,) = read_jsonl([b'{"user": 7, "x": 1}\n'], "f", key_field="user")
    assert item == Item(b'{"user": 7, "x": 1}', b"7")


def test_jsonl_tombstone_and_base64() -> None:
    first, second = read_jsonl([b'{"key": "k", "value": null}', b'{"value": {"base64": "/w=="}}'], "f")
    assert first.value is None
    assert second.value == b"\xff"


@pytest.mark.parametrize("line", [b"{nonsense", b'{"value": {"base64": "!"}}', b'{"value": 1, "timestamp": "noon"}'])
def test_a_bad_line_is_named(line: bytes) -> None:
    with pytest.raises(InvalidRecordError, match=r"file=f line=2"):
        list(read_jsonl([b'{"value": 1}', line], "f"))


def test_csv_rows_are_objects() -> None:
    (item,) = read_csv([b"\xef\xbb\xbfa,b\n", b'1,"x,y"\n'], "f", key_field="a")
    assert (json.loads(item.value or b""), item.key) == ({"a": "1", "b": "x,y"}, b"1")


def test_csv_of_another_width_or_without_the_column_is_an_error() -> None:
    with pytest.raises(InvalidRecordError, match="number of fields"):
        list(read_csv([b"a,b\n", b"1\n"], "f"))
    with pytest.raises(InvalidRecordError, match="columns are a, b"):
        list(read_csv([b"a,b\n"], "f", key_field="c"))


class Record:
    """As a consumer gives it."""

    def __init__(self, value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes | None]]) -> None:
        self.value, self.key, self.headers, self.offset, self.timestamp = value, key, headers, 5, 1000


raw = st.none() | st.binary(max_size=20) | st.text(max_size=10).map(str.encode)


@given(value=raw, key=raw, headers=st.lists(st.tuples(st.text(max_size=5), raw), max_size=3))
def test_what_consume_prints_as_json_produce_reads(
    value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    (item,) = read_jsonl([format_json(Record(value, key, headers), "t", 0)], "f")
    assert item == Item(value, key, headers or None, 1000)


def test_text_cannot_drive_a_terminal() -> None:
    printed = format_text(Record(b"\x1b[31m\xff\n", None, []), "t", 3)
    assert printed == b"3:5 \\x1b[31m\\xff\\n\n"


def test_template() -> None:
    render = formatter_of("template", r"{partition}\t{offset} {key}={value} {headers}")
    assert render(Record(b"v", b"k", [("a", b"1")]), "t", 3) == b"3\t5 k=v a=1\n"


@pytest.mark.parametrize("template", ["{nothing}", "{value.__class__}", "{value"])
def test_a_template_reaches_nothing_else(template: str) -> None:
    with pytest.raises(Exception, match="known are"):
        formatter_of("template", template)
