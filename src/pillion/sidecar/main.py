"""`pilliond`: one sidecar. The command line is read here; everything after it is `lifecycle`.

Knows: exit codes and what is printed before there is a log. Never knows: what runs.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pillion import REFERENCE_VERSION, __version__
from pillion.errors import ComponentError, ConfigError
from pillion.net.listen import CannotListen
from pillion.observe import logs
from pillion.sidecar import environment, flags
from pillion.sidecar.arguments import UsageError
from pillion.sidecar.checks import check, unserved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pillion.sidecar.environment import Environment
    from pillion.sidecar.flags import Options

OK, FAILED, USAGE = 0, 1, 2
WAIT_S, WAIT_STEP_S, WAIT_ONE_S = 60.0, 0.1, 0.5
log = logging.getLogger("pillion.sidecar")


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the program; return its exit status."""
    environ = os.environ if environ is None else environ
    try:
        options = flags.parse(sys.argv[1:] if argv is None else argv, environ)
    except flags.HelpWanted:
        _print(flags.usage())
        return OK
    except UsageError as error:
        _print(f"{error}\n{flags.usage()}", sys.stderr)
        return USAGE
    except ConfigError as error:
        _print(f"pilliond: {error}\n", sys.stderr)
        return FAILED
    if options.version:
        _print(f"{REFERENCE_VERSION}\n")
        return OK
    if options.build_info:
        _print(build_info())
        return OK
    if options.wait:
        wait(options.dapr_http_port)
        return OK
    return _start(options, environment.read(environ))


def _start(options: Options, surroundings: Environment) -> int:
    _print("".join(f"pilliond: {warning}\n" for warning in options.warnings), sys.stderr)
    level = options.log_level if options.log_level in logs.LEVELS else "info"
    try:
        logs.setup(level=level, as_json=options.log_as_json, file=options.log_file)
    except OSError as error:
        _print(f"pilliond: --log-file: {error}\n", sys.stderr)
        return FAILED
    logs.app_id.set(options.app_id)
    try:
        check(options, surroundings)
        for text in unserved(options):
            log.warning("%s", text)
        return _serving()(replace(options, warnings=()), surroundings)
    except (ConfigError, ComponentError, CannotListen) as error:
        log.critical("Fatal error from runtime: %s", error)
        return FAILED
    except Exception as error:
        log.critical("Fatal error from runtime: %s", error, exc_info=error)
        return FAILED


def _serving() -> Callable[[Options, Environment], int]:
    """Import all that serves, which --version need not wait for.

    Modules are many objects and no garbage: the collector does not look at them now, nor ever (10 % of a start).
    """
    gc.disable()
    try:
        from pillion.sidecar.lifecycle import run
    finally:
        gc.freeze()
        gc.enable()
    return run


def build_info() -> str:
    """Return the three lines of `--build-info`; the commit is known when pip installed from a repository."""
    from importlib import metadata

    commit = "unknown"
    try:
        origin = json.loads(metadata.distribution("pillion").read_text("direct_url.json") or "{}")
        commit = origin.get("vcs_info", {}).get("commit_id", commit)
    except (metadata.PackageNotFoundError, ValueError):
        pass
    return f"Version: {REFERENCE_VERSION}\nGit Commit: {commit}\nGit Version: pillion-{__version__}\n"


def wait(port: int) -> bool:
    """Ask the sidecar on `port` until it can serve outbound calls, for a minute at most; return whether it can.

    Nothing announces that another process is ready, so this asks again and again.
    """
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if _ready(port):
            return True
        time.sleep(WAIT_STEP_S)
    return False


def _ready(port: int) -> bool:
    import http.client  # 40 ms that a sidecar itself has no use for

    connection = http.client.HTTPConnection("localhost", port, timeout=WAIT_ONE_S)
    try:
        connection.request("GET", "/v1.0/healthz/outbound")
        return connection.getresponse().status == 204
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _print(text: str, stream: object = None) -> None:
    print(text, end="", file=stream or sys.stdout, flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
