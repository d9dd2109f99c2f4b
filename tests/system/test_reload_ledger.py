"""Components that change while clients write: a ledger shows that no request failed and nothing was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apps import HttpApp
from outages import Ledger, ask_http
from sidecars import Reply, SidecarProcess, component, eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from servers import RedisServer

CHANGES = 4
WRITERS = 4


def change_under_load(
    folder: Path, state: tuple[str, Mapping[str, str]], broker: tuple[str, Mapping[str, str]]
) -> None:
    """Rewrite both components again and again while several clients save, read back and publish."""

    def documents(round_: int) -> dict[str, str]:
        changed = {"round": str(round_)}
        return {
            "state.yaml": component("state", state[0], **state[1], **changed),
            "pubsub.yaml": component("pubsub", broker[0], **broker[1], **changed),
        }

    topics = [{"pubsubname": "pubsub", "topic": "ledger", "route": "/ledger"}]
    with HttpApp(topics) as app, SidecarProcess(folder, app_port=app.port, resources=documents(0)) as sidecar:
        sidecar.wait("/v1.0/healthz")
        wrong: list[Reply] = []

        def saver(writer: int) -> Ledger:
            def save(number: int) -> Reply:
                body = [{"key": f"{writer}-{number}", "value": number}]
                saved = ask_http(sidecar, "POST", "/v1.0/state/state", body)
                read = ask_http(sidecar, "GET", f"/v1.0/state/state/{writer}-{number}")
                if read.body != b"%d" % number:
                    wrong.append(read)
                return saved

            return Ledger(save)

        def publisher(writer: int) -> Ledger:
            return Ledger(
                lambda number: ask_http(sidecar, "POST", "/v1.0/publish/pubsub/ledger", {"n": [writer, number]})
            )

        savers, publishers = [saver(n) for n in range(WRITERS)], [publisher(n) for n in range(WRITERS)]
        ledgers = [*savers, *publishers]
        for ledger in ledgers:
            ledger.__enter__()
        try:
            for round_ in range(1, 1 + CHANGES):
                seen = [len(ledger.kept) for ledger in ledgers]
                for name, text in documents(round_).items():
                    (folder / "resources-app" / f"{name}.new").write_text(text)
                    (folder / "resources-app" / f"{name}.new").rename(folder / "resources-app" / name)
                for name in ("state", "pubsub"):
                    sidecar.wait_log(f"Component loaded: {name}", 1 + round_)
                eventually(
                    lambda seen=seen: all(  # type: ignore[misc]
                        len(ledger.kept) >= before + 5 or ledger.failed
                        for ledger, before in zip(ledgers, seen, strict=True)
                    )
                )
        finally:
            for ledger in ledgers:
                ledger.__exit__()
        assert [ledger.failed for ledger in ledgers] == [[]] * len(ledgers)
        assert not wrong
        published = {(writer, number) for writer, ledger in enumerate(publishers) for number in ledger.kept}
        app.wait(lambda calls: published <= {tuple(call.json()["data"]["n"]) for call in calls})
        for writer, ledger in enumerate(savers):
            for number in ledger.kept:
                kept = ask_http(sidecar, "GET", f"/v1.0/state/state/{writer}-{number}")
                assert kept.body == b"%d" % number
        assert "Traceback" not in sidecar.log()
        assert sidecar.stop() == 0


def test_sqlite(tmp_path: Path) -> None:
    change_under_load(
        tmp_path,
        ("state.sqlite", {"connectionString": str(tmp_path / "state.db")}),
        ("pubsub.sqlite", {"connectionString": str(tmp_path / "pubsub.db"), "redeliverInterval": "1s"}),
    )


@pytest.mark.redis
def test_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    where = {"redisHost": redis_server.address}
    change_under_load(
        tmp_path,
        ("state.redis", {**where, "keyPrefix": "reload-ledger"}),
        (
            "pubsub.redis",
            {**where, "consumerID": "reload-ledger", "processingTimeout": "2s", "redeliverInterval": "500ms"},
        ),
    )
