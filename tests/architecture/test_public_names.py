"""The names a user may import are few, listed, documented, and each lies in the module that says so."""

from __future__ import annotations

import inspect

import mqcore

# A name goes in with its documentation; it leaves only with a major version.
PUBLIC: set[str] = set(getattr(mqcore, "__all__", ()))


def test_all_is_sorted_and_complete() -> None:
    names = list(getattr(mqcore, "__all__", ()))
    assert len(names) == len(set(names))
    visible = {name for name in vars(mqcore) if not name.startswith("_")}
    modules = {name for name in visible if inspect.ismodule(getattr(mqcore, name))}
    assert visible - modules - {"annotations"} <= PUBLIC, visible - modules - PUBLIC
    for name in names:
        getattr(mqcore, name)


def test_public_names_are_documented() -> None:
    for name in sorted(PUBLIC):
        value = getattr(mqcore, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"mqcore.{name} has no docstring"


def test_every_error_is_reachable_from_the_root() -> None:
    """`except mqcore.MQError` needs no other import."""
    if PUBLIC:
        assert mqcore.MQError.__module__ == "mqcore.errors"
