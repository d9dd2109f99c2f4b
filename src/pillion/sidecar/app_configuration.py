"""The application's own configuration: `GET /dapr/config`, asked when it is well, until it has answered once.

Knows: whom to ask, and that an application which does not answer is asked again. Never knows: what the answer means.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.app.actors import ask_configuration
from pillion.errors import ComponentError
from pillion.resiliency.builtin import BuiltIn

if TYPE_CHECKING:
    from pillion.sidecar.ground import Ground

log = logging.getLogger("pillion.sidecar.actors")
CONFIG = "config"
"""The word of `--disable-init-endpoints` that keeps the application from being asked."""


class AppConfiguration:
    """The question to one application. Only one that speaks HTTP is asked, with or without a placement service
    (spec `http-api.md` 5.1).
    """

    def __init__(self, ground: Ground) -> None:
        channel, options = ground.channel, ground.options
        asked = channel is not None and channel.http is not None and CONFIG not in options.disable_init_endpoints
        self._channel = channel if asked else None
        self._app_id = options.app_id
        self._policies = ground.policies

    async def ask(self) -> bytes | None:
        """Return the answer, b"" for any status but 200; None when it is not asked, not any more, or did not answer:
        that is logged.
        """
        if self._channel is None:
            return None
        retry = self._policies.retry(BuiltIn.INITIALIZATION)
        try:
            body = await ask_configuration(self._channel, self._app_id, pause=asyncio.sleep, retry=retry)
        except ComponentError as error:
            log.error("%s: it hosts none until it becomes healthy again", error)
            return None
        self._channel = None
        return body
