"""Names on their way between HTTP and gRPC: methods of applications, header names, metadata names. Pure tables.

Knows: how a method becomes one canonical path (spec `grpc-api.md` 5), which headers belong to one connection, which get
a prefix when they cross to gRPC, what a name and a value may consist of. Never knows: who calls whom.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from pillion.wire.http1 import is_token

Header = tuple[bytes, bytes]


class BadMethod(ValueError):
    """The method of an invocation cannot be one; the text tells the caller why."""


_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f#?]")
_SEGMENT = r"[A-Za-z0-9_~:@!$&'()*+,;=%-][A-Za-z0-9_.~:@!$&'()*+,;=%-]*"
_PLAIN = re.compile(rf"(?:{_SEGMENT}(?:/{_SEGMENT})*)?")
"""Methods that cleaning would not change: no empty segment, none that starts with a dot, no slash at the ends."""
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WIRE_PATH = re.compile(r"(?:[A-Za-z0-9_.~:@!$&'()*+,;=/\[\]-]|%[0-9A-Fa-f]{2})*")


def normalise(method: str) -> str:
    """Return the method as one clean path: `..` resolved and never above the root, `//` collapsed, no `/` at its end.

    Raises `BadMethod` for `#`, `?` and control characters. Applying it again changes nothing.
    """
    if _PLAIN.fullmatch(method):
        return method
    found = _FORBIDDEN.search(method)
    if found is not None:
        raise BadMethod(f"invalid method: character {ord(found[0]):#04x} is not allowed")
    kept: list[str] = []
    for segment in method.split("/"):
        if segment == "..":
            if kept:
                kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    return ("/" if method[:1] == "/" else "") + "/".join(kept)


def app_path(method: str) -> bytes:
    """Return the path under which an HTTP application serves a normalised method; always starts with one `/`.

    Escapes that are in the method already stay as they are, all else that a path cannot carry is escaped; raises
    `BadMethod` for a `%` that starts no escape.
    """
    path = method if method[:1] == "/" else "/" + method
    if _WIRE_PATH.fullmatch(path):
        return path.encode("ascii")
    found = _BAD_ESCAPE.search(path)
    if found is not None:
        raise BadMethod(f'invalid URL escape "{path[found.start() : found.start() + 3]}"')
    return quote(unquote_to_bytes(path), safe="/$&+,:;=@~").encode("ascii")


def guarded(method: str) -> str:
    """Return the method as access rules shall see it: what an application that decodes the path once will serve.

    Escapes hide nothing from the rules, however often they were escaped. Raises `BadMethod`.
    """
    for _ in range(8):
        if "%" not in method:
            return normalise(method)
        decoded = unquote_to_bytes(method).decode("utf-8", "replace")
        if decoded == method:
            return normalise(method)
        method = decoded
    raise BadMethod("invalid method: escaped too often")


_SAFE_QUERY = re.compile(rb"[!-\x22$-~]*")


def safe_query(query: bytes) -> bytes:
    """Return a raw query as it may stand in a request line: blanks, controls, `#` and bytes above 127 are escaped."""
    if _SAFE_QUERY.fullmatch(query):
        return query
    return quote(query, safe="!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~").encode("ascii")


# --- header names --------------------------------------------------------------------------------------------------

RESERVED = frozenset(
    b"accept accept-charset accept-language accept-ranges connection keep-alive proxy-connection transfer-encoding "
    b"upgrade cache-control content-type content-length cookie date expect from host if-match if-none-match "
    b"if-modified-since if-unmodified-since if-schedule-tag-match max-forwards origin pragma referer via "
    b"warning".split()
)
"""HTTP headers that get the prefix `dapr-` as gRPC metadata (spec `grpc-api.md` 5)."""

PREFIX = b"dapr-"
_UNSAFE = re.compile(rb"[\x00\r\n]")


def sendable(name: bytes, value: bytes) -> bool:
    """Whether a header that came out of a message may be written into a head of HTTP/1.1."""
    return is_token(name) and _UNSAFE.search(value) is None


def named_in_connection(value: bytes) -> frozenset[bytes]:
    """Return the header names that a Connection header declares hop-by-hop."""
    return frozenset(name.strip().lower() for name in value.split(b",")) - {b"close", b"keep-alive", b""}


def to_metadata_name(name: bytes) -> bytes:
    """Return the gRPC metadata name of an HTTP header, both in lower case."""
    return PREFIX + name if name in RESERVED else name


def from_metadata_name(name: bytes) -> bytes:
    """Return the HTTP header name of gRPC metadata: `:authority` and `grpc-*` get the prefix `dapr-`."""
    if name[:1] == b":":
        return PREFIX + name[1:]
    return PREFIX + name if name.startswith(b"grpc-") else name


VERBS = ("NONE", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
"""Names of `HTTPExtension.Verb`, by number."""
VERB_NUMBERS = {name: number for number, name in enumerate(VERBS)}
