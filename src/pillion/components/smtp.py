"""`bindings.smtp`: one mail for each request (spec `components.md` 4).

Knows: mails. The conversation with the server is aiosmtplib's, which only this module imports.
"""

from __future__ import annotations

import json
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP as CRLF
from email.utils import formatdate, getaddresses, make_msgid
from typing import TYPE_CHECKING, Any

import aiosmtplib

from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import setting, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from pillion.kinds.bindings import Request
    from pillion.kinds.component import Context

TIMEOUT_S = 30.0
IMPLICIT_TLS_PORT = 465
"""The port where TLS begins with the connection (RFC 8314 3.3); elsewhere STARTTLS is used where it is offered."""
LOCAL = ("localhost", "127.0.0.1", "::1")


def _priority(text: str) -> int:
    value = whole(text)
    if not 1 <= value <= 5:
        raise ValueError("priority value must be between 1 (highest) and 5 (lowest)")
    return value


@dataclass(frozen=True)
class SmtpSettings:
    """Metadata of `bindings.smtp`. A request may override what begins with `email`, `subject` and `priority`."""

    host: str = setting()
    port: int = setting()
    user: str = setting("")
    password: str = setting("", secret=True)
    skip_tls_verify: bool = setting(False, key="skipTLSVerify", help="do not check the server's certificate")
    email_from: str = setting("")
    email_to: str = setting("", help="one or several addresses, separated by semicolons")
    email_cc: str = setting("", key="emailCC")
    email_bcc: str = setting("", key="emailBCC")
    subject: str = setting("")
    priority: int = setting(3, parse=_priority, help="1 (highest) to 5 (lowest)")


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail and who gets it; those of `emailBCC` are told by nothing else."""

    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage


class SmtpBinding:
    """The mail output binding."""

    Settings = SmtpSettings
    operations = ("create",)

    def __init__(self, settings: SmtpSettings, context: Context) -> None:
        where = f"component {context.name}"
        if bool(settings.user) != bool(settings.password):
            raise ConfigError("user and password are given together or not at all", where=where)
        if not 0 < settings.port < 65536:
            raise ConfigError(f"port {settings.port} is not one", where=where)
        self._settings = settings

    async def open(self) -> None:
        """The server is called when there is a mail."""

    async def ping(self) -> None:
        async with self._client():
            """The server has said who it is."""

    async def close(self) -> None:
        """Every mail has a connection of its own, closed with it."""

    async def invoke(self, request: Request) -> None:
        mail = mail_of(request, self._settings)
        async with self._client() as client:
            await self._log_in(client)
            await client.sendmail(mail.sender, mail.recipients, mail.message.as_bytes(policy=CRLF))

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[aiosmtplib.SMTP]:
        """A connection with TLS where there is any. Raises `ComponentError` for whatever happens over it."""
        context = ssl.create_default_context()
        if self._settings.skip_tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        client = aiosmtplib.SMTP(
            hostname=self._settings.host,
            port=self._settings.port,
            timeout=TIMEOUT_S,
            use_tls=self._settings.port == IMPLICIT_TLS_PORT,
            tls_context=context,
        )
        connection: Any = None
        try:
            async with client:
                connection = client.transport
                yield client
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise ComponentError(f"smtp: {error or type(error).__name__}") from error
        finally:
            if connection is not None:
                connection.abort()  # QUIT was the goodbye; that of TLS would be waited for beyond our end

    async def _log_in(self, client: aiosmtplib.SMTP) -> None:
        settings = self._settings
        if not settings.user:
            return
        if client.get_transport_info("sslcontext") is None and settings.host not in LOCAL:
            raise ComponentError("smtp: the server offers no TLS, and the password is not sent in the clear")
        await client.login(settings.user, settings.password)

    def __repr__(self) -> str:
        return f"<SmtpBinding {self._settings.host}:{self._settings.port}>"


def mail_of(request: Request, settings: SmtpSettings) -> Mail:
    """Return the mail of a request; what its metadata override holds for this mail alone. Raises `ComponentError`."""
    given = request.metadata
    message = EmailMessage(policy=CRLF)
    sender = _addresses(given, "emailFrom", settings.email_from)
    to = _addresses(given, "emailTo", settings.email_to)
    cc, bcc = _addresses(given, "emailCC", settings.email_cc), _addresses(given, "emailBCC", settings.email_bcc)
    subject = given.get("subject", settings.subject)
    for value, name in ((sender, "emailFrom"), (to, "emailTo"), (subject, "subject")):
        if not value:
            raise ComponentError(
                f"smtp binding error: {name} property not supplied in configuration- or request-metadata"
            )
    try:
        priority = _priority(given["priority"]) if given.get("priority") else settings.priority
        message["From"] = ", ".join(sender)
        message["To"] = ", ".join(to)
        if cc:
            message["Cc"] = ", ".join(cc)
        message["Subject"] = subject
        message["X-Priority"] = str(priority)
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid()
        message.set_content(_body(request.data), subtype="html")
    except (ValueError, MessageError) as error:
        raise ComponentError(f"smtp binding error: {error}") from error
    envelope = [address for _, address in getaddresses([*to, *cc, *bcc])]
    [(_, origin), *_] = getaddresses(sender)
    if not origin or not all(envelope):
        raise ComponentError("smtp binding error: one of the addresses cannot be read")
    return Mail(origin, tuple(dict.fromkeys(envelope)), message)


def _addresses(given: Mapping[str, str], name: str, default: str) -> list[str]:
    text = given.get(name) or default
    return [part.strip() for part in text.split(";") if part.strip()]


def _body(data: bytes) -> str:
    """Return the text of a mail; a JSON string, as HTTP callers send it, is unwrapped."""
    text = data.decode("utf-8", "replace")
    if text.startswith('"'):
        try:
            unwrapped = json.loads(text)
        except ValueError:
            return text
        return unwrapped if isinstance(unwrapped, str) else text
    return text
