"""The published names: few, each documented, none that the documentation does not explain."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import CHECKOUT

import pillar.pubsub
from pillar.pubsub import Change, Publication, PubSub, PubSubError, Rejected, Subscription

PUBLIC = {name: getattr(pillar.pubsub, name) for name in pillar.pubsub.__all__}


def members(owner: type[Any]) -> Iterator[tuple[str, Any]]:
    for name, member in vars(owner).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_and_everything_public_on_it_is_documented(name: str) -> None:
    value = PUBLIC[name]
    assert value.__doc__
    assert value.__module__.startswith("pillar.pubsub")
    if inspect.isclass(value) and value in (PubSub, Publication, Subscription):
        assert not [member for member, function in members(value) if not (function.__doc__ or "").strip()]


def test_what_can_be_raised_is_said_where_it_is_raised() -> None:
    for method in (PubSub.publication, PubSub.subscription, Publication.publish, Publication.unpublish):
        assert "Raises" in (method.__doc__ or ""), method.__qualname__


def test_there_are_few_names_and_the_page_explains_them() -> None:
    errors = {name for name, value in PUBLIC.items() if inspect.isclass(value) and issubclass(value, PubSubError)}
    assert set(PUBLIC) - errors == {"Change", "PubSub", "Publication", "Rejected", "Subscription", "decode", "encode"}
    assert len(errors) <= 12
    page = (CHECKOUT / "docs/pubsub.md").read_text()
    assert not [name for name in PUBLIC if f"`{name}" not in page]
    assert Change._fields == ("kind", "key", "new", "old", "counter")
    assert Rejected._fields == ("path", "reason")
