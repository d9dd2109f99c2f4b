"""Personal data in texts, replaced by what it is: `mail a@b.co` becomes `mail <EMAIL_ADDRESS>`.

A pure function over patterns (spec `crypto-conversation-mcp.md` 4.4): it finds forms, not meaning, and prefers masking
too much. Patterns are ASCII, and written so that the time they take grows with the length of the text alone: texts come
from callers and from models.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Span(NamedTuple):
    """Characters from `start` up to `end`."""

    start: int
    end: int


_ROADS = (
    "street|st|avenue|ave|road|rd|highway|hwy|square|sq|trail|trl|drive|dr|court|ct|parkway|pkwy|park|circle|cir"
    "|boulevard|blvd"
)
_AREA = r"[2-9](?:1[02-9]|[02-8][0-9])"
_OCTET = r"(?:25[0-5]|2[0-4]\d|[01]?\d\d?)"


def _pattern(text: str, flags: re.RegexFlag = re.NOFLAG) -> Callable[[str], Iterator[Span]]:
    compiled = re.compile(text, re.ASCII | flags)
    return lambda given: (Span(*match.span()) for match in compiled.finditer(given))


_north_american = _pattern(
    rf"(?:\+?1\s?[.-]?\s?)?(?:(?:\(\s?{_AREA}\s?\)|{_AREA})\s?[.-]?\s?)?[2-9]\d\d\s?[.-]?\s?\d{{4}}"
    r"\s{0,3}(?:#|x\.?|ext\.?|extension)\s{0,3}\d{1,10}",
    re.IGNORECASE,
)
_groups = _pattern(r"(?:\+?\d{1,3}[-.*\s]?)?(?:\(?\d{2,3}\)?[-.*\s]?)?\d{2,3}[-.*\s]?\d{2,6}")


def _phones(text: str) -> Iterator[Span]:
    yield from _north_american(text)
    yield from _groups(text)


_domain = re.compile(r"@[a-z0-9-]++(?:\.[a-z0-9-]+)+", re.ASCII | re.IGNORECASE)
_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+/=?^_`{|}~.-")


def _mails(text: str) -> Iterator[Span]:
    """Look for the `@`, then to its left: looking for it from each letter before it would take quadratic time."""
    border = 0
    for match in _domain.finditer(text):
        at = start = match.start()
        while start > border and text[start - 1] in _LOCAL:
            start -= 1
        if start < at:
            yield Span(start, match.end())
        border = match.end()


_octets = _pattern(rf"(?:{_OCTET}\.){{3}}{_OCTET}")
_colons = re.compile(r"[0-9A-Fa-f:.]{2,}+", re.ASCII)
_zone = re.compile(r"(?:%[^\n]*)?\s*", re.ASCII)
_LONGEST_IPV6 = 45


def _ipv6(text: str) -> Iterator[Span]:
    border = 0
    for match in _colons.finditer(text):
        run, start = match[0], match.start()
        if start < border or run.count(":") < 2:
            continue
        for first, last in ((0, 0), (0, 1), (1, 0), (1, 1)):
            part = run[first : len(run) - last]
            if len(part) <= _LONGEST_IPV6 and _is_ipv6(part):
                rest = _zone.match(text, start + first + len(part))
                border = rest.end() if rest is not None else match.end()
                yield Span(start + first, border)
                break


def _is_ipv6(text: str) -> bool:
    if text == "::":
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _addresses(text: str) -> Iterator[Span]:
    yield from _octets(text)
    yield from _ipv6(text)


FORMS: tuple[tuple[str, Callable[[str], Iterator[Span]]], ...] = (
    ("STREET_ADDRESS", _pattern(rf"\d{{1,4}} [\w\s]{{1,20}}(?:{_ROADS})\W", re.IGNORECASE)),
    ("CREDIT_CARD", _pattern(r"(?:\d{4}[- ]?){3}\d{4}|\d{15,16}")),
    ("PHONE_NUMBER", _phones),
    ("EMAIL_ADDRESS", _mails),
    ("IP", _addresses),
    ("ZIP_CODE", _pattern(r"\b\d{5}(?:[-\s]\d{4})?\b")),
    ("PO_BOX", _pattern(r"P\.? ?O\.? Box \d+", re.IGNORECASE)),
    ("US_SSN", _pattern(r"\d{3}-\d{2}-\d{4}")),
    ("ISBN", _pattern(r"(?:\d-?){12}[\dx]|(?:\d-?){9}[\dx]", re.IGNORECASE)),
    ("MAC_ADDRESS", _pattern(r"(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}", re.IGNORECASE)),
    ("IBAN", _pattern(r"[A-Z]{2}\d{2}[A-Z0-9]{4}\d{7}[A-Z0-9]{0,16}")),
)
"""Labels in the order of their weight: of two that match the same characters the later is told."""

_urls = _pattern(r"https?://[^\s<>\"]++", re.IGNORECASE)
_words = re.compile(r"[\w.@:/~-]++", re.ASCII)
_scheme = re.compile(r"(?:git|ssh|https?|git@[\w.]+):", re.ASCII)


def _links(text: str) -> list[Span]:
    """What is left alone: URLs and addresses of git repositories, in the order of their start."""
    found = list(_urls(text))
    for match in _words.finditer(text):
        end = match[0].rfind(".git")
        begin = _scheme.search(match[0]) if end > 0 else None
        if begin is not None and begin.end() < end:
            found.append(Span(match.start() + begin.start(), match.start() + end + 4))
    return _joined(found)


def _joined(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and span.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return joined


def scrub(text: str) -> str:
    """Return `text` with what looks like personal data replaced by `<LABEL>`.

    Where two overlap, the later one keeps what the earlier has not taken. (The reference compares with its immediate
    predecessor even if that was left out, which can end all masking after it.)
    """
    links = _links(text)
    found = [(span, rank) for rank, (_, find) in enumerate(FORMS) for span in find(text)]
    found.sort(key=lambda item: (item[0].start, -item[0].end, -item[1]))
    pieces: list[str] = []
    furthest = link = 0
    for span, rank in found:
        while link < len(links) and links[link].end < span.start:
            link += 1
        if link < len(links) and links[link].start <= span.end:
            continue
        if span.end <= furthest:
            continue
        pieces += (text[furthest : span.start], f"<{FORMS[rank][0]}>")
        furthest = span.end
    pieces.append(text[furthest:])
    return "".join(pieces)
