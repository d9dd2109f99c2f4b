"""Whom a call is for, and which instance gets it."""

from __future__ import annotations

import asyncio
import base64

import pytest

from pillion.blocks.invoke_http import login_target, path_target, whole_path
from pillion.clock import FakeClock
from pillion.errors import ComponentError
from pillion.peers.resolve import DEAD_S, FRESH_S, BadTarget, Directory, Place, parse_target


@pytest.mark.parametrize(
    ("text", "place", "name", "namespace"),
    [
        ("orders", Place.PEER, "orders", "default"),
        ("orders.prod", Place.PEER, "orders", "prod"),
        ("me", Place.HERE, "me", "default"),
        ("me.default", Place.HERE, "me", "default"),
        ("me.prod", Place.PEER, "me", "prod"),
        ("http://host:80/x", Place.URL, "http://host:80/x", ""),
        ("https://a.b.c", Place.URL, "https://a.b.c", ""),
        ("weather", Place.ENDPOINT, "weather", ""),
    ],
)
def test_forms_of_a_target(text: str, place: Place, name: str, namespace: str) -> None:
    """`http-api.md` 4.1, `grpc-api.md` 5: id, id.namespace, URL, HTTPEndpoint, oneself."""
    target = parse_target(text, "me", "default", {"weather"})
    assert (target.place, target.name, target.namespace) == (place, name, namespace)


@pytest.mark.parametrize("text", ["", "a.b.c", ".ns", "..."])
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(BadTarget):
        parse_target(text, "me", "default", ())


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"/v1.0/invoke/a/method/m", ("a", "m")),
        (b"/v1.0/invoke/a/method/", ("a", "")),
        (b"/v1.0/invoke/a/method/x/../y", ("a", "x/../y")),
        (b"/v1.0/invoke/a/method/x/method/y", ("a", "x/method/y")),
        (b"//v1.0//invoke/a/method/m", ("a", "m")),
        (b"/v1.0/invoke/http://h:1/p/method/m", ("http://h:1/p", "m")),
        (b"/v1.0/invoke/http%3A%2F%2Fh/method/m%20n", ("http://h", "m n")),
        (b"/v1.0/invoke/http%253A%252F%252Fh/method/m", ("http://h", "m")),
        (b"/v1.0/invoke/a", None),
        (b"/v1.0/invoke/a/method", None),
        (b"/orders", None),
    ],
)
def test_targets_in_paths(path: bytes, found: tuple[str, str] | None) -> None:
    """`http-api.md` 4.1: split at the first `/method/` of the decoded path; the id is decoded once more."""
    assert path_target(path) == found


def test_targets_in_headers() -> None:
    """`http-api.md` 4.1: user name in any case; with a header the whole path is the method."""
    assert login_target(b"Basic " + base64.b64encode(b"Dapr-App-Id:orders")) == "orders"
    assert login_target(b"Basic " + base64.b64encode(b"somebody:secret")) == ""
    assert login_target(b"Bearer x") == ""
    assert login_target(b"Basic ???") == ""
    assert whole_path(b"/v1.0/invoke/x/method/y") == "v1.0/invoke/x/method/y"


class Names:
    """A resolver that answers from a list and remembers what it was told."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.told: list[str] = []

    async def resolve(self, app_id: str, namespace: str) -> list[str]:
        self.asked += 1
        await asyncio.sleep(0)
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if answer == ["!"]:
            raise ComponentError(f"couldn't find service: {app_id}")
        return answer

    def failed(self, app_id: str, namespace: str, address: str) -> None:
        self.told.append(address)

    async def open(self) -> None: ...
    async def ping(self) -> None: ...
    async def close(self) -> None: ...
    async def register(self, instance: object) -> None: ...


def test_instances_in_turn_and_dead_ones_left_alone() -> None:
    async def run() -> None:
        clock = FakeClock()
        names = Names(["a:1", "b:1", "c:1"])
        directory = Directory(names, clock.monotonic)
        assert sorted([await directory.pick("x", "ns") for _ in range(3)]) == ["a:1", "b:1", "c:1"]
        assert names.asked == 1
        directory.failed("x", "ns", "b:1")
        assert names.told == ["b:1"]
        assert directory.others("x", "ns")
        assert {await directory.pick("x", "ns") for _ in range(6)} == {"a:1", "c:1"}
        clock.advance(DEAD_S)
        assert {await directory.pick("x", "ns") for _ in range(6)} == {"a:1", "b:1", "c:1"}
        clock.advance(FRESH_S)
        await directory.pick("x", "ns")
        assert names.asked == 2
        await directory.close()

    asyncio.run(run())


def test_when_all_are_dead_they_are_looked_up_anew() -> None:
    async def run() -> None:
        names = Names(["a:1"], ["a:1", "d:1"])
        directory = Directory(names, FakeClock().monotonic)
        assert await directory.pick("x", "ns") == "a:1"
        directory.failed("x", "ns", "a:1")
        assert not directory.others("x", "ns")
        assert {await directory.pick("x", "ns") for _ in range(4)} == {"d:1"}
        assert names.asked == 2
        directory.alive("a:1")
        assert {await directory.pick("x", "ns") for _ in range(4)} == {"a:1", "d:1"}
        await directory.close()

    asyncio.run(run())


def test_one_lookup_for_all_who_wait() -> None:
    async def run() -> None:
        names = Names(["a:1"])
        directory = Directory(names)
        assert await asyncio.gather(*(directory.pick("x", "ns") for _ in range(5))) == ["a:1"] * 5
        assert names.asked == 1
        failing = Directory(Names(["!"]))
        errors = await asyncio.gather(*(failing.pick("x", "ns") for _ in range(3)), return_exceptions=True)
        assert [str(error) for error in errors] == ["couldn't find service: x"] * 3
        with pytest.raises(ComponentError, match="name resolver not initialized"):
            await Directory(None).pick("x", "ns")
        for one in (directory, failing):
            await one.close()

    asyncio.run(run())
