"""The tables of `state.postgresql`, version by version: as the reference has them, so that both can use the same ones.

Knows: columns, migrations and expressions (spec `components.md` 2.2). Never knows: connections.
"""

from __future__ import annotations

from dataclasses import dataclass

_EXPIRY = "CURRENT_TIMESTAMP + $3::integer * interval '1 second'"
_NEW_ROWS = 'AS new (k, v, s, f) ORDER BY k COLLATE "C"'
_EXPIRY_OF_MANY = "CURRENT_TIMESTAMP + s * interval '1 second'"


@dataclass(frozen=True, slots=True)
class Layout:
    """What differs between the versions, as text for statements.

    `insert` and `update` take $1 key, $2 value, $3 seconds to live or NULL; `{flag}` in them is `true` for bytes.
    """

    table: str
    metadata: str
    level_key: str
    cleanup_key: str
    steps: tuple[tuple[str, ...], ...]
    """The statements of each migration; each is harmless when it was done before."""
    etag: str
    flag: str
    value: str
    expires: str
    insert: str
    update: str
    many: str
    """What follows INSERT INTO for many rows, in arrays: $1 keys, $2 values, $3 seconds to live, $4 flags. Rows are
    locked in the order of their keys by code point, as transactions do.
    """


def layout_1(table: str, metadata: str) -> Layout:
    """Version 1: jsonb; bytes are a JSON string of base64 with a flag beside it; the ETag is the row's `xmin`."""
    index = f"{table.rpartition('.')[2]}_row_id_uidx"
    return Layout(
        table=table,
        metadata=metadata,
        level_key="migrations",
        cleanup_key="last-cleanup",
        steps=(
            (
                f"""CREATE TABLE IF NOT EXISTS {table} (
                    key text NOT NULL PRIMARY KEY, value jsonb NOT NULL, isbinary boolean NOT NULL,
                    insertdate timestamp with time zone NOT NULL DEFAULT now(), updatedate timestamp with time zone)""",
            ),
            (f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS expiredate timestamp with time zone",),
            (
                f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS row_id bigint GENERATED ALWAYS AS IDENTITY",
                f"CREATE UNIQUE INDEX IF NOT EXISTS {index} ON {table} (row_id)",
            ),
        ),
        etag="xmin::text",
        flag="isbinary",
        value="value::text",
        expires="expiredate",
        insert=f"(key, value, isbinary, expiredate) VALUES ($1, $2::text::jsonb, {{flag}}, {_EXPIRY})",
        update=f"value = $2::text::jsonb, isbinary = {{flag}}, updatedate = CURRENT_TIMESTAMP, expiredate = {_EXPIRY}",
        many=(
            f"(key, value, isbinary, expiredate) SELECT k, v::jsonb, f, {_EXPIRY_OF_MANY}"
            f" FROM unnest($1::text[], $2::text[], $3::integer[], $4::boolean[]) {_NEW_ROWS}"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value, isbinary = excluded.isbinary,"
            " updatedate = CURRENT_TIMESTAMP, expiredate = excluded.expiredate"
        ),
    )


def layout_2(prefix: str, metadata: str) -> Layout:
    """Version 2: bytes as they are, a random UUID as ETag."""
    table = f"{prefix}state"
    bare = table.rpartition(".")[2]
    return Layout(
        table=table,
        metadata=metadata,
        level_key=f"migrations-state-v2-{prefix}",
        cleanup_key=f"last-cleanup-state-v2-{prefix}",
        steps=(
            (
                f"""CREATE TABLE IF NOT EXISTS {table} (
                    key text NOT NULL PRIMARY KEY, value bytea NOT NULL, etag uuid NOT NULL DEFAULT gen_random_uuid(),
                    created_at timestamp with time zone NOT NULL DEFAULT now(), updated_at timestamp with time zone,
                    expires_at timestamp with time zone)""",
                f"CREATE INDEX IF NOT EXISTS {bare}_expires_at_idx ON {table} (expires_at)",
            ),
            (
                f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS row_id bigint GENERATED ALWAYS AS IDENTITY",
                f"CREATE UNIQUE INDEX IF NOT EXISTS {bare}_row_id_uidx ON {table} (row_id)",
            ),
        ),
        etag="etag::text",
        flag="false",
        value="value",
        expires="expires_at",
        insert=f"(key, value, expires_at) VALUES ($1, $2::bytea, {_EXPIRY})",
        update=f"value = $2::bytea, etag = gen_random_uuid(), updated_at = CURRENT_TIMESTAMP, expires_at = {_EXPIRY}",
        many=(
            f"(key, value, expires_at) SELECT k, v, {_EXPIRY_OF_MANY}"
            f" FROM unnest($1::text[], $2::bytea[], $3::integer[], $4::boolean[]) {_NEW_ROWS}"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value, etag = gen_random_uuid(),"
            " updated_at = CURRENT_TIMESTAMP, expires_at = excluded.expires_at"
        ),
    )
