"""The bindings of the house against their contract over real servers, and what is particular to each."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import json
import os
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from apps import HttpApp
from pillion.clock import FakeClock
from pillion.components import http_binding
from pillion.components.cron import LOOK_AGAIN_S, CronBinding
from pillion.components.http_binding import HttpBinding
from pillion.components.localstorage import LocalStorage, content
from pillion.components.postgres_binding import PostgresBinding
from pillion.components.redis_binding import RedisBinding
from pillion.components.smtp import SmtpBinding
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.bindings import BindingError, Event, Request, Response
from pillion.kinds.component import Context, decode
from pillion.testing.binding_kit import InputBindingKit, OutputBindingKit
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from apps import Call
    from pillion.kinds.bindings import InputBinding, OutputBinding
    from servers import Certificates, PostgresServer, RedisServer


def made(kind: Any, **metadata: str) -> Any:
    return kind(decode(kind.Settings, metadata, where="test"), Context("test"))


def ask(make: Callable[[], Any], *requests: Request) -> list[Response | ComponentError | None]:
    """Open, invoke one after the other, close; a failure is its error."""

    async def run() -> list[Response | ComponentError | None]:
        binding = make()
        found: list[Response | ComponentError | None] = []
        await binding.open()
        try:
            for request in requests:
                try:
                    found.append(await binding.invoke(request))
                except ComponentError as error:
                    found.append(error)
        finally:
            await binding.close()
        return found

    return asyncio.run(run())


def data(answer: Response | ComponentError | None) -> bytes:
    assert isinstance(answer, Response), answer
    return answer.data


# -- cron


class Turned(FakeClock):
    """A clock whose sleepers wake when it is moved past their time. `waiting` is set while somebody sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = asyncio.Event()
        self._wake: list[tuple[float, asyncio.Future[None]]] = []
        self.pauses: list[float] = []

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        future = asyncio.get_running_loop().create_future()
        self._wake.append((self.now() + seconds, future))
        self.waiting.set()
        await future

    async def move(self, seconds: float) -> None:
        await self.waiting.wait()
        self.advance(seconds)
        due = [future for at, future in self._wake if at <= self.now()]
        self._wake = [(at, future) for at, future in self._wake if at > self.now()]
        if not self._wake:
            self.waiting.clear()
        for future in due:
            if not future.done():
                future.set_result(None)


class TestCron(InputBindingKit):
    """Time is the test's."""

    @contextlib.asynccontextmanager
    async def binding(self) -> AsyncIterator[InputBinding]:
        self.clock = Turned()
        settings = decode(CronBinding.Settings, {"schedule": "@every 30s"}, where="test")
        yield CronBinding(settings, Context("ticks"), clock=self.clock, pause=self.clock.pause)

    async def happen(self) -> None:
        await self.clock.move(30)


def test_ticks_follow_the_clock() -> None:
    """A tick tells zone and time; a long wait looks at the clock again; what a sleeping machine missed is gone."""

    async def run() -> None:
        clock = Turned()
        settings = decode(CronBinding.Settings, {"schedule": "TZ=Asia/Tokyo 0 0 9 * * *"}, where="test")
        binding = CronBinding(settings, Context("ticks"), clock=clock, pause=clock.pause)
        await binding.open()
        arrived: asyncio.Queue[Event] = asyncio.Queue()

        async def handler(event: Event) -> bytes:
            arrived.put_nowait(event)
            return b""

        reading = await binding.read(handler)
        await clock.waiting.wait()
        assert clock.pauses == [LOOK_AGAIN_S]  # 2026-01-01T00:00:00Z is 9 o'clock in Tokyo: due in a day
        await clock.move(3 * 86_400 + 1800)
        event = await arrived.get()
        assert event.data == b""
        assert event.metadata == {"timeZone": "Asia/Tokyo", "readTimeUTC": "2026-01-04 00:30:00 +0000 UTC"}
        await clock.waiting.wait()
        assert arrived.empty()
        await reading.close(0)
        await binding.close()

    asyncio.run(run())


def test_cron_settings() -> None:
    """A schedule that cannot be read, or is never due, is refused."""
    with pytest.raises(ConfigError, match="minute"):
        made(CronBinding, schedule="99 * * * *")
    with pytest.raises(ConfigError, match="unknown time zone"):
        made(CronBinding, schedule="TZ=Moon/Base @daily")
    with pytest.raises(ComponentError, match="never due"):
        asyncio.run(made(CronBinding, schedule="0 0 31 2 *").open())


# -- http


def served(call: Call) -> tuple[int, dict[str, str], bytes]:
    path = call.path.partition("?")[0]
    if path.startswith("/status/"):
        return int(path[8:]), {"X-Hint": "yes"}, b"said"
    if path.startswith("/to/"):
        return int(path[4:7]), {"Location": path[7:]}, b"elsewhere"
    if path == "/away":
        return 302, {"Location": call.headers["x-away"]}, b""
    if path == "/long":
        return 200, {}, b"x" * 200_000
    shown = {"method": call.method, "path": call.path, "headers": dict(call.headers), "body": call.body.decode()}
    return 200, {"Content-Type": "application/json", "X-Many": "1"}, json.dumps(shown).encode()


@pytest.fixture
def http_server() -> Iterator[HttpApp]:
    with HttpApp(answer=served) as app:
        yield app


class TestHttp(OutputBindingKit):
    examples: ClassVar = [
        (Request("get", b"", {"path": "/status/200"}), b"said"),
        (Request("create", b"{}", {"path": "status/201"}), b"said"),
        (Request("head", b"", {"path": "/status/200"}), b""),
    ]
    refused: ClassVar = [
        Request("get", b"", {"path": "/../secret"}), Request("post", b"", {"path": "/status/404"}),
        Request("get", b"", {"path": "/to/302file:///etc/passwd"}),
    ]  # fmt: skip
    works_closed = True

    @pytest.fixture(autouse=True)
    def _server(self, http_server: HttpApp) -> None:
        self.server = http_server

    @contextlib.asynccontextmanager
    async def binding(self) -> AsyncIterator[OutputBinding]:
        made_binding = made(HttpBinding, url=f"http://127.0.0.1:{self.server.port}")
        try:
            yield made_binding
        finally:
            await made_binding.close()


def test_http_requests(http_server: HttpApp) -> None:
    """Keys from A to Z are headers, those of the connection are not; bodies go with POST, PUT and PATCH alone."""
    url = f"http://127.0.0.1:{http_server.port}/base/"
    metadata = {
        "path": "/a b?q=1", "X-Token": "t\r\nEvil: 1", "Content-Type": "text/plain", "Host": "evil", "lower": "no",
        "Transfer-Encoding": "chunked", "traceparent": "00-1", "baggage": "k=v", "Bad Name": "x",
    }  # fmt: skip
    posted, got = ask(
        lambda: made(HttpBinding, url=url, securityToken="s3cret", securityTokenHeader="X-Sec"),
        Request("post", b"hello", metadata),
        Request("delete", b"hello", {}),
    )
    seen = json.loads(data(posted))
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/base/a%20b?q=1", "hello")
    assert seen["headers"]["x-token"].replace(" ", "") == "tEvil:1"
    assert {key: seen["headers"].get(key) for key in ("content-type", "x-sec", "traceparent", "baggage", "lower")} == {
        "content-type": "text/plain", "x-sec": "s3cret", "traceparent": "00-1", "baggage": "k=v", "lower": None,
    }  # fmt: skip
    assert seen["headers"]["host"] == f"127.0.0.1:{http_server.port}"
    assert seen["headers"]["accept"] == "application/json; charset=utf-8"
    seen = json.loads(data(got))
    assert (seen["method"], seen["body"], "content-type" in seen["headers"]) == ("DELETE", "", False)
    assert isinstance(posted, Response)
    assert {key: posted.metadata[key] for key in ("statusCode", "status", "Content-Type", "X-Many")} == {
        "statusCode": "200", "status": "200 OK", "Content-Type": "application/json", "X-Many": "1",
    }  # fmt: skip


def test_http_failures(http_server: HttpApp) -> None:
    """A status is an error with metadata unless somebody said otherwise; long bodies are cut off; time is limited."""
    url = f"http://127.0.0.1:{http_server.port}"
    failed, told = ask(
        lambda: made(HttpBinding, url=url),
        Request("get", b"", {"path": "/status/503"}),
        Request("get", b"", {"path": "/status/503", "errorIfNot2XX": "false"}),
    )
    assert isinstance(failed, BindingError)
    assert (str(failed), failed.metadata["statusCode"]) == ("received status code 503", "503")
    assert failed.metadata["X-Hint"] == "yes"
    assert isinstance(told, Response)
    assert (told.data, told.metadata["status"]) == (b"said", "503 Service Unavailable")
    (cut,) = ask(lambda: made(HttpBinding, url=url, maxResponseBodySize="1Ki"), Request("get", b"", {"path": "/long"}))
    assert data(cut) == b"x" * 1024
    (nobody,) = ask(lambda: made(HttpBinding, url="http://127.0.0.1:1"), Request("get"))
    assert isinstance(nobody, ComponentError)


def test_http_redirects(http_server: HttpApp) -> None:
    """They are followed, ten at most; credentials stay with the host they are for."""
    url = f"http://127.0.0.1:{http_server.port}"
    with HttpApp(answer=served) as other:
        seen, kept, away, loop = ask(
            lambda: made(HttpBinding, url=url),
            Request("post", b"body", {"path": "/to/303/there"}),
            Request("post", b"body", {"path": "/to/307/there"}),
            Request(
                "get", b"", {"path": "/away", "X-Away": f"http://127.0.0.1:{other.port}/", "Authorization": "Bearer x"}
            ),
            Request("get", b"", {"path": "/to/302/to/302/to/302/to/302" + "/to/302" * 10}),
        )
    assert (json.loads(data(seen))["method"], json.loads(data(seen))["body"]) == ("GET", "")
    assert (json.loads(data(kept))["method"], json.loads(data(kept))["body"]) == ("POST", "body")
    assert "authorization" not in json.loads(data(away))["headers"]
    assert isinstance(loop, ComponentError)


def test_http_no_answer_in_time() -> None:
    """`responseTimeout` ends a call to a server that says nothing."""

    async def run() -> None:
        over = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await over.wait()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        binding = made(
            HttpBinding, url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", responseTimeout="50ms"
        )
        await binding.open()
        with pytest.raises(ComponentError, match="no answer within"):
            await binding.invoke(Request("get"))
        await binding.close()
        over.set()
        server.close()
        await server.wait_closed()

    asyncio.run(run())


def test_https_with_certificates(certificates: Certificates) -> None:
    """`MTLSRootCA` is trusted, and the client shows who it is."""

    async def run() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.authority))
        context.load_cert_chain(certificates.server, certificates.server_key)
        context.verify_mode = ssl.CERT_REQUIRED

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        url, authority = f"https://localhost:{port}", str(certificates.authority)
        pems = {"MTLSClientCert": certificates.client.read_text(), "MTLSClientKey": str(certificates.client_key)}
        for client in ({}, pems):
            binding = made(HttpBinding, url=url, MTLSRootCA=authority, **client)
            await binding.open()
            if client:
                assert (await binding.invoke(Request("get"))).data == b"hi"
            else:
                with pytest.raises(ComponentError):
                    await binding.invoke(Request("get"))
            await binding.close()
        server.close()

    asyncio.run(run())


def test_http_settings() -> None:
    """What cannot work is refused when the component is made."""
    for wrong in ({"url": "ftp://x"}, {"securityToken": "t"}, {"MTLSRenegotiation": "Y"}, {"MTLSClientCert": "c"}):
        with pytest.raises(ConfigError):
            asyncio.run(made(HttpBinding, **{"url": "http://x", **wrong}).open())
    assert http_binding.HttpBinding.operations[0] == "create"


# -- localstorage


class TestLocalStorage(OutputBindingKit):
    examples: ClassVar = [
        (Request("create", b'"aGVsbG8="', {"fileName": "a/b.txt"}), b'{"fileName":"a/b.txt"}'),
        (Request("get", b"", {"fileName": "a/b.txt"}), b"hello"),
        (Request("delete", b"", {"fileName": "a/b.txt"}), None),
    ]
    refused: ClassVar = [
        Request("get"), Request("delete"), Request("get", b"", {"fileName": "nothing"}),
        Request("delete", b"", {"fileName": "nothing"}), Request("get", b"", {"fileName": "a\0b"}),
        Request("create", b"x", {"fileName": "/"}), Request("create", b"x", {"fileName": "x" * 300}),
        Request("list", b"", {"fileName": "nothing"}), Request("get", b"", {"fileName": "\udcff\ud800"}),
    ]  # fmt: skip

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = tmp_path / "files"

    @contextlib.asynccontextmanager
    async def binding(self) -> AsyncIterator[OutputBinding]:
        yield made(LocalStorage, rootPath=str(self.root))


def test_no_way_out_of_the_folder(tmp_path: Path) -> None:
    """`..` ends at the top; links that lead out are refused, those that stay inside are followed."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    root.mkdir()
    (root / "inner").mkdir()
    (root / "inner" / "kept").write_text("kept!")
    (root / "out").symlink_to(outside)
    (root / "file-out").symlink_to(outside / "secret")
    (root / "dangling").symlink_to(outside / "new")
    (root / "link").symlink_to("inner")
    (root / "inner" / "up").symlink_to("..")
    os.mkfifo(root / "pipe")

    def get(name: str) -> Request:
        return Request("get", b"", {"fileName": name})

    def put(name: str) -> Request:
        return Request("create", b"new!!", {"fileName": name})

    make: Callable[[], Any] = lambda: made(LocalStorage, rootPath=str(root))  # noqa: E731
    for request in (
        get("out/secret"), get("file-out"), put("out/x"), put("file-out"), put("dangling"), get("inner/up/out/secret"),
        Request("list", b"", {"fileName": "out"}), Request("delete", b"", {"fileName": "out/secret"}), get("pipe"),
        get("inner"), put("inner"), get("../outside/secret"), put("inner/kept/below"),
    ):  # fmt: skip
        (answer,) = ask(make, request)
        assert isinstance(answer, ComponentError), request
    assert (outside / "secret").read_text() == "secret"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    inside, climbed, listed, named = ask(
        make,
        get("link/kept"),
        put("../../climbed"),
        Request("list"),
        put(""),
    )
    assert data(inside) == b"kept!"
    assert data(climbed) == b'{"fileName":"climbed"}'
    names = [path.removeprefix(str(root) + "/") for path in json.loads(data(listed))]
    assert names == ["climbed", "dangling", "file-out", "pipe", "inner/kept"], "links are named, not followed"
    assert len(json.loads(data(named))["fileName"]) == 36
    ask(make, Request("delete", b"", {"fileName": "file-out"}))
    assert (outside / "secret").exists()
    assert not (root / "file-out").is_symlink()


def test_what_is_written() -> None:
    """A JSON string is unwrapped, base64 is decoded where it is base64 throughout, all else is as it came."""
    assert content(b'"hello world"') == b"hello world"
    assert content(b'"aGVsbG8="') == b"hello"
    assert content(b"aGVs\r\nbG8=") == b"hello"
    assert content(b'{"a":1}') == b'{"a":1}'
    assert content(b"\xff\x00") == b"\xff\x00"
    assert content(b'"unfinished') == b'"unfinished'
    assert content(b"") == b""


def test_folders_of_the_system() -> None:
    """Neither there nor where a link leads there."""
    for root in ("/proc/self", "/sys", "/boot/x", "/var/run/secrets/kubernetes.io", "/tmp/../proc"):
        with pytest.raises(ConfigError, match="rootPath"):
            ask(lambda root=root: made(LocalStorage, rootPath=root))  # type: ignore[misc]


# -- redis


@pytest.mark.redis
class TestRedis(OutputBindingKit):
    examples: ClassVar = [
        (Request("create", b'"v"', {"key": "bind-k"}), None),
        (Request("get", b"", {"key": "bind-k"}), b'"v"'),
        (Request("increment", b"", {"key": "bind-n"}), None),
        (Request("get", b"", {"key": "bind-n", "delete": "true"}), b"1"),
        (Request("get", b"", {"key": "bind-n"}), b""),
        (Request("delete", b"", {"key": "bind-k"}), None),
        (Request("get", b"", {"key": "bind-k"}), b""),
        (Request("create", b"x", {"key": "bind-t", "ttlInSeconds": "100"}), None),
        (Request("increment", b"", {"key": "bind-c", "ttl": "100s"}), None),
        (Request("create", b"x", {"key": "bind-gone", "ttl": "-1s"}), None),
        (Request("get", b"", {"key": "bind-gone"}), b""),
    ]
    refused: ClassVar = [
        Request("get"), Request("create", b"x", {"key": "k", "ttlInSeconds": "-1"}),
        Request("create", b"x", {"key": "k", "ttlInSeconds": "soon"}),
    ]  # fmt: skip

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.server = redis_server

    @contextlib.asynccontextmanager
    async def binding(self) -> AsyncIterator[OutputBinding]:
        yield made(RedisBinding, redisHost=self.server.address)

    def test_time_to_live(self) -> None:
        """The server lets keys expire."""
        ask(lambda: made(RedisBinding, redisHost=self.server.address), *(request for request, _ in self.examples))
        for key in ("bind-t", "bind-c"):
            left = subprocess.check_output(["redis-cli", "-p", str(self.server.port), "TTL", key])
            assert 0 < int(left) <= 100
        (wrong,) = ask(
            lambda: made(RedisBinding, redisHost=self.server.address), Request("increment", b"", {"key": "bind-t"})
        )
        assert isinstance(wrong, ComponentError)


# -- postgresql


@pytest.mark.postgresql
class TestPostgres(OutputBindingKit):
    examples: ClassVar = [
        (Request("exec", b"", {"sql": "CREATE TABLE IF NOT EXISTS kit (n int, t text); DELETE FROM kit"}), None),
        (Request("exec", b"", {"sql": "INSERT INTO kit VALUES ($1, $2)", "params": '[1, "<one>"]'}), None),
        (Request("query", b"", {"sql": "SELECT * FROM kit"}), b'[[1,"\\u003cone\\u003e"]]'),
        (Request("query", b"", {"sql": "SELECT * FROM kit WHERE n = $1", "params": "[7]"}), b"[]"),
    ]
    refused: ClassVar = [
        Request("query"), Request("exec", b"", {"sql": "SELEC"}), Request("exec", b"", {"sql": "SELECT $1::int"}),
        Request("exec", b"", {"sql": "SELECT $1::int", "params": "{}"}),
        Request("exec", b"", {"sql": "SELECT $1::int", "params": '["x"]'}),
        Request("exec", b"", {"sql": "SELECT $1::int2", "params": "[99999]"}),
        Request("exec", b"", {"sql": "SELECT $1::int", "params": "[1"}),
    ]  # fmt: skip

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> None:
        self.server = postgres_server
        postgres_server.sql("CREATE TABLE IF NOT EXISTS kit (n int, t text)")

    @contextlib.asynccontextmanager
    async def binding(self) -> AsyncIterator[OutputBinding]:
        yield made(PostgresBinding, url=self.server.url)

    def test_many_at_once(self) -> None:
        """Not the first example: tables of one name made at the same time are PostgreSQL's own quarrel."""
        requests = [Request("query", b"", {"sql": f"SELECT {n}"}) for n in range(20)]

        async def run() -> list[bytes]:
            binding = made(PostgresBinding, url=self.server.url)
            await binding.open()
            found = await asyncio.gather(*(binding.invoke(request) for request in requests))
            await binding.close()
            return [one.data for one in found]

        assert asyncio.run(run()) == [b"[[%d]]" % n for n in range(20)]

    def test_types_both_ways(self) -> None:
        """JSON parameters become what the statement wants; rows become JSON."""
        sql = (
            "SELECT $1::int8, $2::numeric, $3::bool, $4::timestamptz, $5::jsonb, $6::bytea, $7::uuid, $8::int[],"
            " $9::date, $10::interval, $11::float8, $12::text, $13::text, row(1, 'a')"
        )
        parameters = [
            9007199254740993, "12345678901234567890.5", True, "2026-01-02T03:04:05.5+02:00", {"a": [1, 2]}, "aGk=",
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8", [1, None, 3], "2026-01-02", "1h30m", 0.1, None, {"k": 1},
        ]  # fmt: skip
        (answer,) = ask(
            lambda: made(PostgresBinding, url=self.server.url),
            Request("query", b"", {"sql": sql, "params": json.dumps(parameters)}),
        )
        (row,) = json.loads(data(answer), parse_float=str)
        assert row[:4] == [9007199254740993, "12345678901234567890.5", True, "2026-01-02T01:04:05.500000+00:00"]
        assert json.loads(row[4]) == {"a": [1, 2]}
        assert row[5:9] == ["aGk=", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", [1, None, 3], "2026-01-02"]
        assert row[9:13] == ["1h30m0s", "0.1", None, '{"k":1}']

    def test_response_metadata(self) -> None:
        """What was done, when, for how long, and how many rows it touched; `close` ends it all."""
        done, failed, closed, late = ask(
            lambda: made(PostgresBinding, url=self.server.url),
            Request("exec", b"", {"sql": "INSERT INTO kit SELECT 5 FROM generate_series(1, 3)"}),
            Request("exec", b"", {"sql": "SELECT 1/0"}),
            Request("close"),
            Request("query", b"", {"sql": "SELECT 1"}),
        )
        assert isinstance(done, Response)
        assert done.metadata["rows-affected"] == "3"
        assert set(done.metadata) == {"operation", "sql", "start-time", "end-time", "duration", "rows-affected"}
        assert done.metadata["start-time"].endswith("Z")
        assert isinstance(failed, BindingError)
        assert "division by zero" in str(failed)
        assert failed.metadata["operation"] == "exec"
        assert closed is None
        assert isinstance(late, ComponentError)


# -- smtp


class Mailbox:
    """Keeps what arrives, as (sender, recipients, message)."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], email.message.EmailMessage]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append((envelope.mail_from, list(envelope.rcpt_tos), message))
        return "250 OK"


@contextlib.contextmanager
def mail_server(box: Mailbox, **options: Any) -> Iterator[int]:
    """A real SMTP server on a thread of its own."""
    controller = Controller(box, hostname="127.0.0.1", port=free_port(), ready_timeout=60, **options)
    controller.start()
    try:
        yield int(controller.port)
    finally:
        controller.stop()


class TestSmtp(OutputBindingKit):
    examples: ClassVar = [(Request("create", b'"<b>Hi</b>"', {"emailTo": "a@example.test; B <b@example.test>"}), None)]
    refused: ClassVar = [
        Request("create", b"x", {"emailTo": " ; "}),
        Request("create", b"x", {"subject": "one\r\nBcc: evil@example.test"}),
        Request("create", b"x", {"emailTo": "a@example.test\r\nBcc: evil@example.test"}),
        Request("create", b"x", {"priority": "9"}), Request("create", b"x", {"priority": "high"}),
    ]  # fmt: skip
    works_closed = True

    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        self.box = Mailbox()
        with mail_server(self.box) as port:
            self.port = port
            yield

    def make(self, **more: str) -> Any:
        given = {"emailFrom": "Me <me@example.test>", "emailTo": "default@example.test", "subject": "Grüße", **more}
        return made(SmtpBinding, **{"host": "127.0.0.1", "port": str(self.port), **given})

    @contextlib.asynccontextmanager
    async def binding(self) -> AsyncIterator[OutputBinding]:
        yield self.make()

    def test_a_mail(self) -> None:
        """HTML with a priority; blind copies are in the envelope alone; what a request overrides holds for it alone."""
        ask(
            self.make,
            Request(
                "create", b'"<p>1 < 2</p>"',
                {"emailTo": "a@example.test;b@example.test", "emailCC": "c@example.test", "priority": "1",
                 "emailBCC": "Blind <d@example.test>", "subject": "Other"},
            ),
            Request("create", b"plain"),
        )  # fmt: skip
        (sender, recipients, first), (_, later, second) = self.box.mails
        assert sender == "me@example.test"
        assert recipients == [f"{name}@example.test" for name in "abcd"]
        assert (first["To"], first["Cc"], first["Bcc"]) == ("a@example.test, b@example.test", "c@example.test", None)
        assert (first["Subject"], first["X-Priority"], first.get_content_type()) == ("Other", "1", "text/html")
        assert first.get_content().strip() == "<p>1 < 2</p>"
        assert (later, second["Subject"], second["X-Priority"], second["Cc"]) == (
            ["default@example.test"], "Grüße", "3", None,
        )  # fmt: skip

    def test_settings(self) -> None:
        """A user needs a password, a priority is between 1 and 5, an address is needed."""
        for wrong in ({"user": "u"}, {"priority": "0"}, {"port": "0"}):
            with pytest.raises(ConfigError):
                self.make(**wrong)
        (answer,) = ask(lambda: self.make(emailTo=""), Request("create", b"x"))
        assert "emailTo property not supplied" in str(answer)


def test_mail_with_tls_and_a_password(certificates: Certificates) -> None:
    """STARTTLS is used where it is offered and the certificate is checked; a wrong password is an error."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server, certificates.server_key)

    def check(server: Any, session: Any, envelope: Any, mechanism: str, given: Any) -> AuthResult:
        return AuthResult(success=(given.login, given.password) == (b"u", b"right"), handled=False)

    box = Mailbox()
    with mail_server(box, tls_context=context, require_starttls=True, authenticator=check, auth_required=True) as port:
        given = {"emailFrom": "m@example.test", "emailTo": "a@example.test", "subject": "s", "user": "u"}

        def make(**more: str) -> Any:
            return made(SmtpBinding, host="127.0.0.1", port=str(port), **given, **more)

        (sent,) = ask(lambda: make(password="right", skipTLSVerify="true"), Request("create", b"x"))
        (wrong,) = ask(lambda: make(password="wrong", skipTLSVerify="true"), Request("create", b"x"))
        (unknown,) = ask(lambda: make(password="right"), Request("create", b"x"))
    assert sent is None
    assert len(box.mails) == 1
    assert isinstance(wrong, ComponentError)
    assert isinstance(unknown, ComponentError)
    assert "certificate" in str(unknown).lower()
    assert threading.active_count() < 50
