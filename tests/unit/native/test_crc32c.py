"""The checksum equals other implementations' for any bytes, in any pieces, by every path of this processor."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore._native import crc32c as native


def test_vectors() -> None:
    assert native.crc32c(b"") == 0
    assert native.crc32c(b"123456789") == 0xE3069283
    assert native.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert native.crc32c(bytes(range(32))) == 0x46DD794E


@given(st.binary(max_size=5000), st.integers(0, 5000), st.integers(0, 2**32 - 1))
def test_every_path_and_every_cut(data: bytes, cut: int, seed: int) -> None:
    whole = native.crc32c(data, seed)
    assert native.crc32c(data[cut:], native.crc32c(data[:cut], seed)) == whole
    for name in native.implementations():
        assert native.crc32c_with(name, data, seed) == whole
        assert native.crc32c_with(name, memoryview(data)[cut:], native.crc32c(data[:cut], seed)) == whole


@pytest.mark.parametrize("module", ["crc32c", "google_crc32c"])
def test_equals_peers(module: str) -> None:
    peer = pytest.importorskip(module)
    of = getattr(peer, "crc32c", None) or peer.value
    for size in (0, 1, 63, 64, 127, 128, 255, 256, 4095, 6144, 65536, 1_000_003):
        data = os.urandom(size)
        assert native.crc32c(data) == of(data)


def test_arguments() -> None:
    with pytest.raises(TypeError):
        native.crc32c("text")  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        native.crc32c(b"", -1)
    with pytest.raises(ValueError, match="no usable implementation 'abacus'"):
        native.crc32c_with("abacus", b"")
    assert native.active() in native.implementations()


@pytest.mark.parametrize("name", native.implementations())
def test_environment_chooses_the_path(name: str) -> None:
    code = "from mqcore._native.crc32c import active, crc32c; print(active(), crc32c(b'123456789'))"
    environment = os.environ | {"MQCORE_CRC32C": name}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [name, str(0xE3069283)]
