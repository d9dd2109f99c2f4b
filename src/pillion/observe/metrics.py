"""Metrics: families of series, and their text in Prometheus' exposition format 0.0.4.

Knows: counters, gauges, histograms, labels and the bounds on them. Never knows: what is counted (`rows.py` has the
table, `meters.py` the meaning), clocks, sockets.

A meter asks its family for a series once for each set of label values and keeps it; counting is then an addition to an
attribute. Names are exactly those of the table: nothing is appended to a counter's name and no `_created` is written,
as dashboards of the reference expect (spec `runtime.md` 9, trap 1).
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from typing import TYPE_CHECKING, Generic, TypeVar

from pillion.observe.rows import ROWS, Kind, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pillion.kinds.config import MetricRule

log = logging.getLogger("pillion.observe.metrics")

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
MOST_SERIES = 2000
MOST_HISTOGRAMS = 200
"""Series of one family: of numbers, and of histograms, each of which is some forty lines of a scrape. What comes later
is counted in one more series whose labels are `other`.
"""
LONGEST_VALUE = 512
"""Characters of a label value; the rest of a longer one is cut off."""
OTHER = "other"
REMEMBERED = 4096
"""Label values, as they were before rules rewrote them, that are remembered for each family."""
PIECE = 200
"""Series in one piece of the text: what the loop may be kept busy with at a time, about a millisecond."""


class Number:
    """A counter or a gauge: add to `value`, or set it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def __repr__(self) -> str:
        return f"<Number {self.value:g}>"


class Histogram:
    """`counts[i]` observations were at most `bounds[i]` and more than the bound before; the last count has no bound.

    `uncounted` are events that had nothing to measure; they are part of the counter that goes with a histogram only.
    """

    __slots__ = ("bounds", "counts", "total", "uncounted")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0
        self.uncounted = 0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def count(self, value: float) -> None:
        """Take an event whose `value` is an observation only where it is more than 0."""
        if value > 0:
            self.observe(value)
        else:
            self.uncounted += 1

    def __repr__(self) -> str:
        return f"<Histogram of {sum(self.counts)}, {self.total:g} in all>"


S = TypeVar("S", Number, Histogram)


class Family(Generic[S]):
    """All series of one metric. `fixed` has the values of the labels that are the same in each of them."""

    def __init__(
        self,
        row: Row,
        make: Callable[[], S],
        fixed: Mapping[str, str],
        rewrites: Mapping[str, Sequence[Callable[[str], str]]] | None = None,
        most: int = MOST_SERIES,
    ) -> None:
        self.row = row
        self.counters: list[str] = list(row.counters)
        """Names of the counters that are shown from a histogram's counts."""
        self.series: dict[tuple[str, ...], S] = {}
        self._make: Callable[[], S] = make
        self._fixed = fixed
        self._rewrites = rewrites or {}
        self._most = most
        self._remembered: dict[tuple[str, ...], S] = {}
        self._free = tuple(label for label in row.labels if label not in row.fixed)

    def child(self, *values: str) -> S:
        """Return the series of these values: one for each label that is not fixed, in the order of the table."""
        known = self._remembered.get(values)
        if known is not None:
            return known
        given = dict(zip(self._free, values, strict=True))
        labels = tuple(self._value(label, given) for label in self.row.labels)
        found = self.series.get(labels)
        if found is None:
            found = self._add(labels)
        if len(self._remembered) >= REMEMBERED:
            self._remembered.clear()
        self._remembered[values] = found
        return found

    def _value(self, label: str, given: Mapping[str, str]) -> str:
        value = (given[label] if label in given else self._fixed.get(label, ""))[:LONGEST_VALUE]
        for rewrite in self._rewrites.get(label, ()):
            value = rewrite(value)
        return value

    def _add(self, labels: tuple[str, ...]) -> S:
        if len(self.series) >= self._most:
            row = self.row
            labels = tuple(
                value if label in row.fixed else OTHER for label, value in zip(row.labels, labels, strict=True)
            )
            if (found := self.series.get(labels)) is not None:
                return found
            log.warning(
                "metric %s has %d series; further ones are counted as %r. Fold what is variable in its labels with "
                "metric.http.pathMatching or metric.rules", row.exposed, self._most, OTHER,
            )  # fmt: skip
        made = self.series[labels] = self._make()
        return made

    def __repr__(self) -> str:
        return f"<{self.row.exposed}: {len(self.series)} series>"


class Registry:
    """The metrics of one sidecar. Families come to be when they are asked for; those without series are not shown.

    `fixed` gives labels their values where the table calls them fixed (`app_id`, `namespace`); `latencies_ms` replaces
    the bounds of latency histograms. A rule with a bad expression switches all rules off, as in the reference.
    """

    def __init__(
        self,
        fixed: Mapping[str, str],
        *,
        latencies_ms: Sequence[float] = (),
        rules: Iterable[MetricRule] = (),
        most: int = MOST_SERIES,
    ) -> None:
        self._fixed = dict(fixed)
        self._latencies_ms = tuple(latencies_ms)
        self._most = most
        self._numbers: dict[str, Family[Number]] = {}
        self._histograms: dict[str, Family[Histogram]] = {}
        self._collectors: list[Callable[[], str]] = []
        try:
            self._rewrites = _compile(rules)
        except re.error as error:
            log.error("metric.rules are off: %r is no regular expression: %s", error.pattern, error)
            self._rewrites = {}

    def number(self, name: str) -> Family[Number]:
        """Return a counter or gauge by its name in the table, without `dapr_`. Raises `KeyError`."""
        family = self._numbers.get(name)
        if family is None:
            row = ROWS[name]
            assert row.kind in (Kind.COUNTER, Kind.GAUGE), name
            family = Family(row, Number, self._fixed, self._rewrites.get(name), self._most)
            self._numbers[name] = family
        return family

    def histogram(self, name: str) -> Family[Histogram]:
        """Return a histogram by its name in the table, without `dapr_`. Raises `KeyError`."""
        family = self._histograms.get(name)
        if family is None:
            row = ROWS[name]
            assert row.kind is Kind.HISTOGRAM, name
            bounds = self._latencies_ms if row.latency and self._latencies_ms else row.bounds
            most = min(self._most, MOST_HISTOGRAMS)
            family = Family(row, lambda: Histogram(bounds), self._fixed, self._rewrites.get(name), most)
            self._histograms[name] = family
        return family

    def collect(self, collector: Callable[[], str]) -> None:
        """Add lines that are made when somebody asks."""
        self._collectors.append(collector)

    def text(self) -> Iterator[str]:
        """Return the exposition in pieces; other work may be done, and counted, between two of them."""
        for collector in self._collectors:
            yield collector()
        for number in list(self._numbers.values()):
            yield from _numbers(number.row, _labelled(number), lambda series: series.value)
        for histogram in list(self._histograms.values()):
            yield from _histogram(histogram)
            for name in histogram.counters:
                yield from _numbers(ROWS[name], _labelled(histogram), lambda s: sum(s.counts) + s.uncounted)

    def __repr__(self) -> str:
        return f"<Registry of {self._fixed}: {len(self._numbers) + len(self._histograms)} families>"


def _compile(rules: Iterable[MetricRule]) -> dict[str, dict[str, list[Callable[[str], str]]]]:
    found: dict[str, dict[str, list[Callable[[str], str]]]] = {}
    for rule in rules:
        labels = found.setdefault(rule.metric, {})
        for label in rule.labels:
            labels.setdefault(label.label, []).extend(
                _rewrite(re.compile(pattern), replacement) for replacement, pattern in label.replacements.items()
            )
    return found


def _rewrite(pattern: re.Pattern[str], replacement: str) -> Callable[[str], str]:
    return lambda value: pattern.sub(lambda _: replacement, value)


# --- the text ------------------------------------------------------------------------------------------------------


def head(name: str, kind: str, about: str) -> str:
    """Return the lines that introduce a metric."""
    return f"# HELP {name} {about}\n# TYPE {name} {kind}\n"


def number_text(value: float) -> str:
    """Return a value as the format wants it: whole numbers without a point."""
    return str(value) if isinstance(value, int) else repr(value).removesuffix(".0")


def _escape(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value


def _labelled(family: Family[S]) -> list[tuple[str, S]]:
    names = family.row.labels
    return [
        (",".join([f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True)]), series)
        for values, series in list(family.series.items())
    ]


def _numbers(row: Row, series: list[tuple[str, S]], value: Callable[[S], float]) -> Iterator[str]:
    if not series:
        return
    name = row.exposed
    lines = [head(name, row.kind.value, row.about)]
    for labels, one in series:
        braced = f"{{{labels}}}" if labels else ""
        lines.append(f"{name}{braced} {number_text(value(one))}\n")
        if len(lines) >= PIECE * 8:
            yield "".join(lines)
            lines = []
    yield "".join(lines)


def _histogram(family: Family[Histogram]) -> Iterator[str]:
    series = _labelled(family)
    if not series:
        return
    row = family.row
    name = row.exposed
    bounds = [number_text(bound) for bound in series[0][1].bounds] + ["+Inf"]
    lines = [head(name, row.kind.value, row.about)]
    for at, (labels, one) in enumerate(series, 1):
        sofar = 0
        lead = f'{name}_bucket{{{labels},le="' if labels else f'{name}_bucket{{le="'
        for bound, count in zip(bounds, one.counts, strict=True):
            sofar += count
            lines.append(f'{lead}{bound}"}} {sofar}\n')
        lines.append(f"{name}_sum{{{labels}}} {number_text(one.total)}\n{name}_count{{{labels}}} {sofar}\n")
        if at % PIECE == 0:
            yield "".join(lines)
            lines = []
    yield "".join(lines)
