"""Values as bytes objects, which are used again when nobody kept them: whoever keeps one, in whatever form, has it for good."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore._native.columns import Values, decode
from tests.support.batches import Plain, encode

VALUES = st.lists(st.none() | st.binary(max_size=4) | st.binary(min_size=500, max_size=600), max_size=40)


def column(values: list[bytes | None]) -> Values:
    return decode(encode([Plain(value) for value in values]))[0].values


@given(VALUES.filter(bool), st.lists(st.booleans(), min_size=40, max_size=40))
def test_what_is_kept_stays(values: list[bytes | None], keeps: list[bool]) -> None:
    kept = []
    for index, value in enumerate(column(values).iter_bytes()):
        assert value == values[index]
        if keeps[index]:
            kept.append((index, value))
    assert all(value == values[index] for index, value in kept)
    assert list(column(values).iter_bytes()) == values


def same_size(count: int) -> list[bytes | None]:
    return [b"%06d" % number for number in range(count)]


@pytest.mark.parametrize("keep", [memoryview, lambda value: (value,), lambda value: {value: value}, iter])
def test_each_way_to_keep_one_counts(keep: Callable[[bytes], object]) -> None:
    wanted = same_size(50)
    kept = [keep(value) for value in column(wanted).iter_bytes() if value is not None]
    found = [bytes(one) if isinstance(one, memoryview) else b"".join([*one]) if isinstance(one, tuple | dict) else
             bytes(one) for one in kept]  # type: ignore[call-overload]  # fmt: skip
    assert found == wanted


def test_a_value_that_comes_in_an_old_object_has_its_own_hash() -> None:
    wanted = same_size(1000)
    numbers = {value: index for index, value in enumerate(wanted)}
    seen = 0
    for index, value in enumerate(column(wanted).iter_bytes()):
        assert hash(value) == hash(b"%06d" % index)
        seen += numbers[value] == index
    assert seen == len(wanted)


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="each value is a new object")
def test_a_walk_that_keeps_nothing_makes_two_objects() -> None:
    assert len({id(value) for value in column(same_size(1000)).iter_bytes()}) <= 3


def test_an_iterator_that_is_dropped_lets_go() -> None:
    walk = column(same_size(10)).iter_bytes()
    value = next(walk)
    before = sys.getrefcount(value)
    del walk
    gc.collect()
    assert sys.getrefcount(value) == before - 1
    assert value == b"000000"


def test_several_walks_over_one_column_do_not_meet() -> None:
    values = column(same_size(300))
    for number, (one, other) in enumerate(zip(values.iter_bytes(), values.iter_bytes(), strict=True)):
        assert one == other == b"%06d" % number
