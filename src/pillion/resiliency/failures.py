"""What a failed attempt means to a policy: may it be repeated, does it count against the target, which status is it?

Knows: the errors of the house. Never knows: policies. Reference: spec `runtime.md` 4.1, "Matching".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.errors import Code, ComponentError, EtagInvalid, EtagMismatch, NotSupported, QueryInvalid, TokenInvalid
from pillion.kinds.actors import AppRefused, MethodMissing, NoPlacement, RemoteFailure, TooDeep
from pillion.kinds.invocation import Unsuccessful
from pillion.kinds.topics import Unprocessed
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, RpcError
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Callable

    Judge = Callable[[BaseException], "Failure"]


class TimedOut(ComponentError):
    """An attempt lasted longer than the timeout of its policy, and was cancelled."""

    def __init__(self) -> None:
        super().__init__("context deadline exceeded")


class Refused(ComponentError):
    """A circuit breaker did not let an attempt through. `attempted`: an earlier attempt of the same call was made."""

    def __init__(self, text: str, *, attempted: bool) -> None:
        self.attempted = attempted
        super().__init__(text)


class BreakerOpen(Refused):
    """The breaker is open: the target has failed too often."""

    def __init__(self, *, attempted: bool = False) -> None:
        super().__init__("circuit breaker is open", attempted=attempted)


class TooManyRequests(Refused):
    """The breaker is half-open, and as many calls as it lets through are on their way."""

    def __init__(self, *, attempted: bool = False) -> None:
        super().__init__("too many requests", attempted=attempted)


class Injected(ComponentError):
    """An error that fault injection made up. `code` is an HTTP status (from 100 on), a gRPC code or None."""

    def __init__(self, text: str, code: int | None = None) -> None:
        self.code = code
        super().__init__(text)


@record
class Failure:
    """One failed attempt.

    `code` is an HTTP status from 100 on or a gRPC code below; None: it carried no status, lists do not apply. `final`:
    the same request would fail again. `blameless`: the target did its work, the fault is the caller's or nobody's, so
    that a breaker counts a success.
    """

    code: int | None = None
    final: bool = False
    blameless: bool = False


UNKNOWN = Failure()
"""A failure without a status."""
_CALLERS = Failure(final=True, blameless=True)
_TERMINAL = Failure(int(Code.FAILED_PRECONDITION), final=True, blameless=True)
_UNAVAILABLE = Failure(int(Code.UNAVAILABLE))


def judge(error: BaseException) -> Failure:
    """Classify a failure of any call."""
    match error:
        case EtagMismatch() | EtagInvalid() | TokenInvalid() | QueryInvalid() | NotSupported():
            return _CALLERS
        case BodyTooLarge() | BodyIncomplete():
            return _CALLERS
        case MethodMissing() | TooDeep() | NoPlacement():
            return _CALLERS
        case AppRefused():
            return Failure(error.status)
        case Unsuccessful() | RpcError() | Injected() | RemoteFailure():
            return UNKNOWN if error.code is None else Failure(error.code)
        case Unprocessed():
            if error.held:
                return _CALLERS
            # An answer of RETRY comes with a status of success, which says nothing about why.
            code = error.http_status if error.http_status >= 300 else error.grpc_code
            return Failure(code) if code else UNKNOWN
        case _:
            return UNKNOWN


def judge_publish(error: BaseException) -> Failure:
    """Classify a failed publish: what a broker fails of counts as UNAVAILABLE (spec `components.md` 1)."""
    if isinstance(error, NotSupported):
        return _TERMINAL
    found = judge(error)
    return _UNAVAILABLE if found is UNKNOWN and type(error) is not TimedOut else found
