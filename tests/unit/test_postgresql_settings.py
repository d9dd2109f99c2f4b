"""Connection strings of PostgreSQL in both forms (postgresql.org/docs/current/libpq-connect.html, section 32.1.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.components.postgres_configuration import PostgresConfigurationSettings
from pillion.components.postgresql_pool import parse_connection_string
from pillion.kinds.component import decode


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("", {}),
        ("host=h  port = 5433", {"host": "h", "port": "5433"}),
        ("dbname='my db' password='it\\'s \\\\'", {"database": "my db", "password": "it's \\"}),
        ("host='' user=a\\ b", {"host": "", "user": "a b"}),
        ("postgres://u:p%40ss@h:1/db?sslmode=require", {
            "user": "u", "password": "p@ss", "host": "h", "port": "1", "database": "db", "sslmode": "require",
        }),
        ("postgresql://a:1,[::1]/x", {"host": "a,::1", "port": "1,5432", "database": "x"}),
        ("postgresql:///x?host=/run/pg", {"host": "/run/pg", "database": "x"}),
    ],
)  # fmt: skip
def test_both_forms(text: str, parameters: dict[str, str]) -> None:
    assert parse_connection_string(text) == parameters


@pytest.mark.parametrize("text", ["host", "host=h junk", "password='open", "=x", "host=h 1=2", "postgres://h:port/x"])
def test_malformed_strings_are_refused_without_quoting_them(text: str) -> None:
    with pytest.raises(ValueError, match="connection string"):
        parse_connection_string(text)


@given(st.text(st.characters(blacklist_characters="\x00", blacklist_categories=["Cs"]), max_size=30))
def test_quoted_values_come_back(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    assert parse_connection_string(f"user=u password='{quoted}' host=h")["password"] == value


@pytest.mark.parametrize("key", ["connectionMaxIdleTime", "connMaxIdleTime", "CONNMAXIDLETIME"])
def test_the_old_name_of_the_idle_time_counts(key: str) -> None:
    """`components.md` 6: configuration stores knew it by another name once."""
    read = decode(PostgresConfigurationSettings, {"table": "t", key: "90"}, where="component c")
    assert read.connection_max_idle_time == 90.0
