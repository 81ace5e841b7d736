"""A codec gives back what it was given, in a form that Kafka's Java client reads, and never more than the limit."""

from __future__ import annotations

import contextlib
import gzip
import os

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore import codecs
from mqcore.codecs import Codec
from mqcore.errors import CorruptBatchError, InvalidConfigError, RecordTooLargeError, UnsupportedFormatError

ALL = [Codec.NONE, Codec.GZIP, Codec.SNAPPY, Codec.LZ4, Codec.ZSTD]
REAL = ALL[1:]


@pytest.mark.parametrize("codec", ALL)
@settings(max_examples=50, deadline=None)
@given(data=st.one_of(st.binary(max_size=2000), st.binary(max_size=20).map(lambda b: b * 5000)))
def test_round_trip(codec: Codec, data: bytes) -> None:
    assert bytes(codecs.decompress(codec, codecs.compress(codec, data), limit=len(data))) == data


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("size", [0, 1, 32768, 32769, (1 << 20) - 1, (3 << 20) + 7])
def test_round_trip_at_sizes_where_framing_changes(codec: Codec, size: int) -> None:
    data = os.urandom(size // 2) + bytes(size - size // 2)
    packed = bytes(codecs.compress(codec, bytearray(data)))
    back = codecs.decompress(codec, memoryview(packed), limit=size + 100)
    assert bytes(back) == data
    assert back.readonly


@pytest.mark.parametrize("codec", ALL)
def test_one_byte_over_the_limit_is_refused(codec: Codec) -> None:
    packed = bytes(codecs.compress(codec, bytes(5000)))
    with pytest.raises(RecordTooLargeError):
        codecs.decompress(codec, packed, limit=4999)
    assert len(codecs.decompress(codec, packed, limit=5000)) == 5000


@pytest.mark.parametrize("codec", REAL)
def test_a_bomb_stops_at_the_limit(codec: Codec) -> None:
    bomb = bytes(codecs.compress(codec, bytes(64 << 20)))
    with pytest.raises(RecordTooLargeError):
        codecs.decompress(codec, bomb, limit=1 << 20)


def test_a_lying_snappy_length_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(RecordTooLargeError):
        codecs.decompress(Codec.SNAPPY, b"\xff\xff\xff\xff\x0f" + b"\x00" * 10, limit=1 << 30)


@pytest.mark.parametrize("codec", REAL)
@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), noise=st.binary(min_size=1, max_size=8))
def test_damage_is_a_corrupt_batch_or_other_bytes_never_another_error(codec: Codec, cut: float, noise: bytes) -> None:
    packed = bytearray(bytes(codecs.compress(codec, os.urandom(200) + bytes(3000))))
    at = int(cut * (len(packed) - 1))
    packed[at : at + len(noise)] = noise
    for damaged in (packed, packed[:at]):
        with contextlib.suppress(CorruptBatchError, RecordTooLargeError):
            assert len(codecs.decompress(codec, damaged, limit=10_000)) <= 10_000


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.LZ4, Codec.ZSTD])
def test_a_stream_cut_short_is_corrupt(codec: Codec) -> None:
    packed = bytes(codecs.compress(codec, os.urandom(1000)))
    with pytest.raises(CorruptBatchError):
        codecs.decompress(codec, packed[:-3], limit=10_000)


def test_snappy_is_framed_as_xerial_frames_it() -> None:
    packed = bytes(codecs.compress(Codec.SNAPPY, bytes(40_000)))
    assert packed[:16] == b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"
    first = int.from_bytes(packed[16:20], "big")
    assert len(bytes(cramjam.snappy.decompress_raw(packed[20 : 20 + first]))) == 32 * 1024


def test_bare_snappy_blocks_are_read() -> None:
    assert bytes(codecs.decompress(Codec.SNAPPY, cramjam.snappy.compress_raw(b"ab" * 50), limit=100)) == b"ab" * 50


def test_lz4_frames_have_independent_blocks_and_version_1() -> None:
    packed = bytes(codecs.compress(Codec.LZ4, b"x" * 200_000))
    assert packed[:4] == b"\x04\x22\x4d\x18"
    assert packed[4] >> 6 == 1  # version
    assert packed[4] & 0x20  # Kafka's reader refuses linked blocks


def test_gzip_is_plain_gzip_of_one_or_more_members() -> None:
    assert gzip.decompress(bytes(codecs.compress(Codec.GZIP, b"abc"))) == b"abc"
    assert bytes(codecs.decompress(Codec.GZIP, gzip.compress(b"ab") + gzip.compress(b"c"), limit=10)) == b"abc"


def test_names_and_unknown_ids() -> None:
    assert codecs.codec_of(None) is codecs.codec_of("uncompressed") is Codec.NONE
    assert codecs.codec_of("ZSTD") is Codec.ZSTD
    with pytest.raises(InvalidConfigError, match="brotli"):
        codecs.codec_of("brotli")
    for codec in (5, 7, -1):
        with pytest.raises(UnsupportedFormatError):
            codecs.decompress(codec, b"abc", limit=10)
        with pytest.raises(UnsupportedFormatError):
            codecs.compress(codec, b"abc")
