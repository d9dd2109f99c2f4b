"""`conversation.anthropic`: models of Anthropic, at its own address or in Azure's Foundry (spec `components.md` 11).

Knows: addresses, the name of the model, the key. The protocol is `anthropic_chat`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.components.anthropic_chat import form_name, messages_body, messages_reply
from pillion.components.chat_http import ChatModel, ChatServer, ChatSettings
from pillion.errors import ConfigError
from pillion.kinds.component import setting

if TYPE_CHECKING:
    from pillion.kinds.component import Context
    from pillion.kinds.conversation import Reply, Request

ANTHROPIC = "https://api.anthropic.com/v1"
VERSION = "2023-06-01"
MODEL = "claude-sonnet-4-20250514"


@dataclass(frozen=True, kw_only=True)
class AnthropicSettings(ChatSettings):
    """Metadata of `conversation.anthropic`."""

    key: str = setting(secret=True, help="the key of the provider's API")
    api_type: str = setting("", choices=("", "anthropic", "foundry"), help="anthropic or foundry")


class AnthropicConversation(ChatModel):
    """One model behind the messages API."""

    Settings = AnthropicSettings

    def __init__(self, settings: AnthropicSettings, context: Context) -> None:
        where = f"component {context.name}"
        if settings.api_type == "foundry" and not settings.endpoint:
            raise ConfigError("foundry needs endpoint", where=where)
        server = ChatServer(
            settings.endpoint or ANTHROPIC,
            {"x-api-key": settings.key, "anthropic-version": VERSION},
            timeout_s=settings.request_timeout,
            where=where,
        )
        model = os.environ.get("ANTHROPIC_MODEL") or settings.model or MODEL
        super().__init__(server, model, kept_s=settings.response_cache_ttl)

    async def _ask(self, request: Request) -> Reply:
        answer = await self._server.post("/messages", messages_body(request, self._model))
        return messages_reply(answer, self._model, form_name(request))
