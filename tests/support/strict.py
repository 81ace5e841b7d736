"""Skips that CI does not accept: with MQCORE_STRICT=1 a missing real part (a JDK, a broker) is a failure."""

from __future__ import annotations

import os

import pytest

STRICT = os.environ.get("MQCORE_STRICT", "") not in ("", "0")


def needs(condition: object, what: str, how: str) -> None:
    """Go on if the condition is true; else skip, or fail in a strict run.

    what: the missing part. how: what brings it.
    """
    if condition:
        return
    message = f"{what} is missing: {how}"
    if STRICT:
        pytest.fail(message + " (MQCORE_STRICT is set: no skips for missing parts)", pytrace=False)
    pytest.skip(message)
