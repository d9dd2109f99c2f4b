"""Personal data in texts: the vectors of the specification, and what masking must never do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.security.pii import FORMS, scrub

VECTORS = [
    ("my phone number is +2222222222", "my phone number is <PHONE_NUMBER>"),
    ("my email is test@test.com", "my email is <EMAIL_ADDRESS>"),
    ("from 10.8.9.1", "from <IP>"),
    ("ssn 123-45-6789", "ssn <US_SSN>"),
    ("card 4111 1111 1111 1111", "card <CREDIT_CARD>"),
    ("zip 94105", "zip <ZIP_CODE>"),
    ("year 2024 and 42", "year <PHONE_NUMBER> and 42"),
    ("221 Baker Street London", "<STREET_ADDRESS>London"),
    ("see https://example.com/a/123456 ok", "see https://example.com/a/123456 ok"),
]


@pytest.mark.parametrize(("text", "scrubbed"), VECTORS)
def test_vectors(text: str, scrubbed: str) -> None:
    """Spec `crypto-conversation-mcp.md` 4.4."""
    assert scrub(text) == scrubbed


def test_masking_does_not_end_early() -> None:
    """The reference stops masking after an overlap inside another match; we do not."""
    assert scrub("9 x 5551 y 5552 st, mail a@b.co") == "<STREET_ADDRESS> mail <EMAIL_ADDRESS>"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("mac 00:1B:44:11:3A:B7.", "mac <MAC_ADDRESS>."),
        ("iban DE89370400440532013000", "iban <IBAN>"),
        ("isbn 978-3-16-148410-x", "isbn <ISBN>"),
        ("P.O. Box 12, po box 7", "<PO_BOX>, <PO_BOX>"),
        ("zip 94105-1234", "zip <ZIP_CODE>"),
        ("call (555) 234-4567 x99", "call <PHONE_NUMBER>"),
        ("at 2001:db8::1, fe80::1%eth0\nnext", "at <IP>, <IP>next"),
        ("clone git@example.com:a/b12345.git or 12345", "clone git@example.com:a/b12345.git or <ZIP_CODE>"),
        ("a@b@c.de", "a@<EMAIL_ADDRESS>"),
        ("grüße an jörg 42 :: a.b @", "grüße an jörg 42 :: a.b @"),
        ("", ""),
    ],
)
def test_forms(text: str, scrubbed: str) -> None:
    assert scrub(text) == scrubbed


@given(st.text(alphabet="0123456789 -.@abcxX:/%+()\n", max_size=80))
def test_no_long_number_is_left(text: str) -> None:
    """Outside of URLs no run of four digits survives, wherever matches overlap; a second time changes no mask."""
    masked = scrub(text)
    if "://" in text:
        return
    bare = masked
    for label, _ in FORMS:
        bare = bare.replace(f"<{label}>", "\n")
    assert not any(part.isdigit() and len(part) >= 4 for part in bare.replace("-", " ").split())


@pytest.mark.parametrize("text", ["::1%", "git:", "a@", "@a", "1 a", "(22)", "https://", "a.", "1-", "1 st"])
def test_hostile_texts_take_no_longer(text: str) -> None:
    """64 KiB of the worst end well within the test's time limit: no pattern is quadratic."""
    assert scrub(text * (65536 // len(text)))
