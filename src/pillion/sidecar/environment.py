"""The environment, read once (spec `runtime.md` 1.3).

Knows: which variables mean what. Never knows: `os.environ`, which the caller hands in, so that several sidecars can
live in one process. Nothing else in the house reads the environment of a sidecar.
"""

from __future__ import annotations

import os
import re
from dataclasses import field, replace
from typing import TYPE_CHECKING

from pillion.kinds.component import truthy
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.sidecar.flags import Options


@record
class Environment:
    """What the environment says. Tokens are kept out of `repr`."""

    namespace_raw: str = ""
    """NAMESPACE as it stands, "" when unset: metric label, `keyPrefix: namespace`, manifest filter."""
    namespace: str = "default"
    """The namespace of this application's identity: "default" when NAMESPACE is unset, "" when it is set but empty."""
    pod_name: str = ""
    host_ip: str = ""
    api_token: str = field(default="", repr=False)
    app_api_token: str = field(default="", repr=False)
    trust_anchors: str = field(default="", repr=False)
    sentry_token_file: str | None = None
    """None when unset; set but empty is an error."""
    sentry_local_identity: str = ""
    sockets_folder: str = "/tmp/dapr-components-sockets"
    http2_cleartext: bool = True
    root_allowed: bool = False
    user: int = -1
    """The process's numeric user, -1 where there is none."""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """All variables: what configuration files expand and components may refer to."""

    def reference(self, name: str) -> str | None:
        """Return what `envRef: name` of a component means, "" when it is unset; None when the name is forbidden.

        Forbidden are the sidecar's own secrets and names, and, when DAPR_ENV_KEYS is set, all that it does not list.
        """
        upper = name.upper()
        if not name or " " in name or upper == "APP_API_TOKEN" or upper.startswith("DAPR_"):
            return None
        allowed = self.variables.get("DAPR_ENV_KEYS")
        if allowed is not None and upper not in allowed.upper().split():
            return None
        return self.variables.get(name, "")

    def including(self, further: Mapping[str, str]) -> Environment:
        """Return the same environment with `further` variables."""
        return replace(self, variables={**self.variables, **further})

    def expand(self, text: str) -> str:
        """Expand `$NAME` and `${NAME}` over a whole text (spec 3.1): an unset name vanishes, as do the one-character
        names of the shell (`$1`, `$$`, `$?`); `$` before anything else stays. There is no escape.
        """
        return _REFERENCE.sub(self._expansion, text)

    def _expansion(self, match: re.Match[str]) -> str:
        name = match["braced"] or match["bare"] or ""
        return self.variables.get(name, "")


_REFERENCE = re.compile(r"\$(?:\{(?P<braced>[^}]*)\}|(?P<bare>[A-Za-z_][A-Za-z0-9_]*|[0-9*#$@!?-])|\{)", re.ASCII)
"""What a `$` and the characters after it can be; an opening brace that is never closed vanishes with its `$`."""


def read(environ: Mapping[str, str]) -> Environment:
    """Read the variables that matter from `environ`, and keep a copy of all."""
    namespace = environ.get("NAMESPACE")
    return Environment(
        namespace_raw=namespace or "",
        namespace="default" if namespace is None else namespace,
        pod_name=environ.get("POD_NAME", ""),
        host_ip=environ.get("DAPR_HOST_IP", ""),
        api_token=environ.get("DAPR_API_TOKEN", ""),
        app_api_token=environ.get("APP_API_TOKEN", ""),
        trust_anchors=environ.get("DAPR_TRUST_ANCHORS", ""),
        sentry_token_file=environ.get("DAPR_SENTRY_TOKEN_FILE"),
        sentry_local_identity=environ.get("SENTRY_LOCAL_IDENTITY", ""),
        sockets_folder=environ.get("DAPR_COMPONENTS_SOCKETS_FOLDER", "") or "/tmp/dapr-components-sockets",
        http2_cleartext=not truthy(environ.get("DAPR_HTTP_DISABLE_H2C")),
        root_allowed=environ.get("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK") == "true",
        user=os.getuid() if hasattr(os, "getuid") else -1,
        variables=dict(environ),
    )


def own_variables(options: Options, *, internal_port: int, host_address: str) -> dict[str, str]:
    """Return what the sidecar adds before configuration files are read, so that they can name it in `${...}`."""
    return {
        "APP_ID": options.app_id,
        "APP_PORT": str(options.app_port),
        "HOST_ADDRESS": host_address,
        "DAPR_PORT": str(internal_port),
        "DAPR_GRPC_PORT": str(options.dapr_grpc_port),
        "DAPR_HTTP_PORT": str(options.dapr_http_port),
        "DAPR_METRICS_PORT": str(options.metrics_port),
        "DAPR_PROFILE_PORT": str(options.profile_port),
    }
