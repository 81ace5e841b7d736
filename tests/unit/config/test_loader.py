"""Settings from text: each line is a pair, a comment or an error with its place; nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.config.loader import MAX_FILE_BYTES, from_file, from_pairs, from_properties, from_toml
from mqcore.errors import InvalidConfigError


def test_pairs() -> None:
    assert from_pairs(["retention.ms=5", " a = b=c "]) == {"retention.ms": "5", "a": "b=c"}
    for bad in (["retention.ms"], ["=5"], ["a=1", "a=2"]):
        with pytest.raises(InvalidConfigError):
            from_pairs(bad)


def test_properties_as_kafka_has_them() -> None:
    text = "# broker\n! old\n\nlog.retention.ms=5\nlog.segment.bytes : 100\nurl=a:b\n"
    assert from_properties(text) == {"log.retention.ms": "5", "log.segment.bytes": "100", "url": "a:b"}
    with pytest.raises(InvalidConfigError) as caught:
        from_properties("a=1\nnonsense\n")
    assert caught.value.where["line"] == 2


def test_toml_tables_and_dotted_keys_are_one() -> None:
    assert from_toml("retention.ms = 5\n[segment]\nbytes = 7\n") == {"retention.ms": 5, "segment.bytes": 7}
    with pytest.raises(InvalidConfigError, match="not TOML"):
        from_toml("= 5")


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("x = 1")
    (tmp_path / "a.properties").write_text("x=1")
    assert from_file(tmp_path / "a.toml") == {"x": 1}
    assert from_file(tmp_path / "a.properties") == {"x": "1"}
    (tmp_path / "b").write_bytes(b"\xff=1")
    (tmp_path / "c").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    for name in ("b", "c"):
        with pytest.raises(InvalidConfigError):
            from_file(tmp_path / name)


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_clear_error(text: str) -> None:
    for parse in (from_properties, from_toml):
        try:
            values = parse(text)
        except InvalidConfigError:
            continue
        assert all(values)
