"""Reading a command line the way Go programs with POSIX flags do (spec `runtime.md` 1.1).

Knows: the notation of flags and the kinds of their values. Never knows: which flags there are, that is `flags.py`.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from pillion.errors import ConfigError
from pillion.kinds.component import go_bool
from pillion.kinds.quantity import quantity
from pillion.records import record
from pillion.wire.durations import go_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class UsageError(Exception):
    """The command line cannot be understood: show the usage on stderr and end with status 2."""


def whole(text: str) -> int:
    """Go's ParseInt with base 0: decimal, 0x, 0o, 0b, a leading 0 for octal, `_` between digits; fits 64 bits."""
    sign, digits = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    if re.fullmatch(r"0_?[0-7]+(_[0-7]+)*", digits):
        digits = "0o" + digits[1:].lstrip("_")
    if not digits[:1].isdigit():
        raise ValueError("not an integer")
    try:
        number = int(sign + digits, 0)
    except ValueError:
        raise ValueError("not an integer") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError("out of range")
    return number


def natural(text: str) -> int:
    """A whole number that is not negative."""
    number = whole(text)
    if number < 0 or text.startswith("+"):
        raise ValueError("not a natural number")
    return number


def port(text: str) -> int:
    """A TCP port in decimal; 0 means that somebody else chooses."""
    if not re.fullmatch(r"[+]?[0-9]{1,9}", text, re.ASCII) or int(text) > 65535:
        raise ValueError("not a port number (0 to 65535)")
    return int(text)


def port_or_none(text: str) -> int | None:
    """A TCP port, or None for the empty text: no listener."""
    return port(text) if text else None


def port_or_zero(text: str) -> int:
    """A TCP port; the empty text is 0."""
    return port(text) if text else 0


def values(text: str) -> tuple[str, ...]:
    """One line of comma-separated values with CSV quoting."""
    if not text:
        return ()
    if "\n" in text or "\r" in text:
        raise ValueError("more than one line")
    try:
        return tuple(next(csv.reader([text], strict=True)))
    except csv.Error as error:
        raise ValueError(str(error)) from error


def parts(text: str) -> tuple[str, ...]:
    """Comma-separated parts without quoting, trimmed; empty ones are left out."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


class Kind(Enum):
    """What a flag's value is: the word the usage shows, and the function that reads it.

    The values of `checked` kinds are plain text to the parser; a wrong one is a configuration error (status 1) and not
    a usage error (status 2).
    """

    TEXT = ("string", str, False)
    PARTS = ("a,b", parts, False)
    LIST = ("strings", values, False)
    BOOL = ("", go_bool, False)
    INT = ("int", whole, False)
    UINT = ("uint", natural, False)
    DURATION = ("duration", go_duration, False)
    PORT = ("port", port, True)
    PORT_OR_NONE = ("port", port_or_none, True)
    PORT_OR_ZERO = ("port", port_or_zero, True)
    QUANTITY = ("quantity", quantity, True)

    def __init__(self, word: str, read: Callable[[str], Any], checked: bool) -> None:
        self.word, self.read, self.checked = word, read, checked


@record
class Flag:
    """One row: all there is to say of a flag. `default` is the read value, `shown` its text in usage and docs."""

    name: str
    kind: Kind
    default: Any
    shown: str
    help: str
    environment: str = ""
    deprecated: str = ""
    """What to use instead; empty when the flag is in good standing."""
    hidden: bool = False

    def value(self, text: str) -> Any:
        """Read one given text; raises `UsageError` or `ConfigError` that says what would be right."""
        try:
            return self.kind.read(text)
        except ValueError as error:
            negative = re.fullmatch(r"--\d.*", text)
            mend = f"write --{self.name}={text[1:]}" if negative else ""
            if self.kind.checked:
                raise ConfigError(f"{text!r}: {error}", where=f"--{self.name}", mend=mend) from error
            tail = f" ({mend})" if mend else ""
            raise UsageError(f"invalid argument {text!r} for --{self.name}: {error}{tail}") from error


def option(
    kind: Kind,
    default: Any,
    help: str,
    *,
    shown: str | None = None,
    environment: str = "",
    deprecated: str = "",
    hidden: bool = False,
) -> Any:
    """Return a field of a dataclass of options that is a flag: its name is the field's, with dashes."""
    if shown is None:
        shown = "" if default in (None, "", (), False) else str(default).lower() if default is True else str(default)
    meta = {"kind": kind, "shown": shown, "help": help, "environment": environment}
    return dataclasses.field(default=default, metadata={**meta, "deprecated": deprecated, "hidden": hidden})


def rows_of(options: type) -> tuple[Flag, ...]:
    """Return the flags of a dataclass of options; fields that `option` did not make are none."""
    fields = (field for field in dataclasses.fields(options) if field.metadata)
    return tuple(Flag(field.name.replace("_", "-"), default=field.default, **field.metadata) for field in fields)


@dataclass(slots=True)
class Arguments:
    """What a command line said: read values by flag name, and what deserves a warning."""

    values: dict[str, Any]
    given: frozenset[str]
    warnings: list[str]
    help: bool = False


def read(flags: Sequence[Flag], argv: Sequence[str], environ: Mapping[str, str]) -> Arguments:
    """Read `argv` (without the program's name), then the environment's fallbacks, then the defaults.

    Raises `UsageError` and, for a checked kind, `ConfigError`.
    """
    rows = {flag.name: flag for flag in flags}
    said = Arguments({}, frozenset(), [])
    arguments = [_long(argument) for argument in argv]
    at = 0
    while at < len(arguments) and not said.help:
        argument, at = arguments[at], at + 1
        if argument == "--":
            said.warnings.extend(f"argument {rest!r} is not used" for rest in argv[at:])
            break
        if argument in ("--help", "-h"):
            said.help = True
        elif argument.startswith("--"):
            at = _take(rows, said, argument[2:], arguments, at)
        elif argument.startswith("-") and argument != "-":
            raise UsageError(f"unknown shorthand flag: {argument!r}")
        else:
            said.warnings.append(_stray(argument, argv[at - 2] if at > 1 else "", rows))
    said.given = frozenset(said.values)
    for flag in flags:
        if flag.name not in said.values:
            text = environ.get(flag.environment, "") if flag.environment else ""
            said.values[flag.name] = flag.value(text) if text else flag.default
    return said


def _long(argument: str) -> str:
    """Rewrite `-name` as `--name`: single-dash spelling is accepted for anything longer than two characters."""
    single = len(argument) > 2 and argument[0] == "-" and argument[1] != "-"
    return "-" + argument if single else argument


def _take(rows: Mapping[str, Flag], said: Arguments, text: str, arguments: Sequence[str], at: int) -> int:
    name, equals, value = text.partition("=")
    flag = rows.get(name)
    if flag is None:
        near = difflib.get_close_matches(name, [row.name for row in rows.values() if not row.hidden], n=1, cutoff=0.6)
        raise UsageError(f"unknown flag: --{name}" + (f" (did you mean --{near[0]}?)" if near else ""))
    if not equals:
        if flag.kind is Kind.BOOL:
            value = "true"
        elif at == len(arguments):
            raise UsageError(f"flag needs an argument: --{name}")
        else:
            value, at = arguments[at], at + 1
    if flag.deprecated and name not in said.values:
        said.warnings.append(f"flag --{name} is deprecated: {flag.deprecated}")
    read_value = flag.value(value)
    if flag.kind is Kind.LIST:
        read_value = said.values.get(name, ()) + read_value
    said.values[name] = read_value
    return at


def _stray(argument: str, before: str, rows: Mapping[str, Flag]) -> str:
    flag = rows.get(before.lstrip("-"))
    if flag is not None and flag.kind is Kind.BOOL:
        return f"argument {argument!r} is not used: write --{flag.name}={argument}"
    return f"argument {argument!r} is not used"


def usage(program: str, flags: Sequence[Flag]) -> str:
    """Return the text of `--help`: one line for each flag that is not hidden, in alphabetical order."""
    shown = sorted((flag for flag in flags if not flag.hidden), key=lambda flag: flag.name)
    heads = [f"      --{flag.name} {flag.kind.word}".rstrip() for flag in shown]
    width = max(map(len, heads)) + 3
    lines = [f"Usage of {program}:"]
    for head, flag in zip(heads, shown, strict=True):
        notes = f" (default {flag.shown})" if flag.shown else ""
        notes += f" [${flag.environment}]" if flag.environment else ""
        notes += f" (DEPRECATED: {flag.deprecated})" if flag.deprecated else ""
        lines.append(f"{head:<{width}}{flag.help}{notes}")
    return "\n".join(lines) + "\n"
