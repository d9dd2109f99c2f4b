"""`conversation.openai`, and the other servers of the same protocol: `conversation.ollama`, `conversation.deepseek`.

Knows: addresses, names of models, keys (spec `components.md` 11). The protocol is `openai_chat`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from pillion.components.chat_http import ChatModel, ChatServer, ChatSettings
from pillion.components.openai_chat import chat_body, chat_reply
from pillion.errors import ConfigError
from pillion.kinds.component import seconds, setting

if TYPE_CHECKING:
    from pillion.kinds.component import Context
    from pillion.kinds.conversation import Reply, Request

OPENAI = "https://api.openai.com/v1"
OLLAMA = "http://localhost:11434/v1"
DEEPSEEK = "https://api.deepseek.com"
COMPLETIONS = "/chat/completions"


class OpenAIModel(ChatModel):
    """One model that speaks this protocol. `most_tokens` limits answers, 0: the provider's own limit."""

    def __init__(
        self, server: ChatServer, model: str, *, path: str = COMPLETIONS, kept_s: float = 0.0, most_tokens: int = 0
    ) -> None:
        super().__init__(server, model, kept_s=kept_s)
        self._path, self._most_tokens = path, most_tokens

    async def _ask(self, request: Request) -> Reply:
        body = chat_body(request, self._model)
        if self._most_tokens > 0:
            body["max_tokens"] = self._most_tokens
        return chat_reply(await self._server.post(self._path, body), self._model)


@dataclass(frozen=True, kw_only=True)
class OpenAISettings(ChatSettings):
    """Metadata of `conversation.openai`."""

    key: str = setting(secret=True, help="the key of the provider's API")
    api_type: str = setting("", choices=("", "open_ai", "azure"), help="open_ai or azure")
    api_version: str = setting("", help="of azure")


class OpenAIConversation(OpenAIModel):
    """OpenAI, Azure OpenAI, and whatever speaks their protocol at another address."""

    Settings = OpenAISettings

    def __init__(self, settings: OpenAISettings, context: Context) -> None:
        where = f"component {context.name}"
        headers: dict[str, str] = {}
        azure = settings.api_type == "azure"
        if azure:
            if not settings.endpoint or not settings.api_version:
                raise ConfigError("azure needs endpoint and apiVersion", where=where)
            model = os.environ.get("AZURE_OPENAI_MODEL") or settings.model or "gpt-4.1-nano"
            path = f"/openai/deployments/{quote(model, safe='')}{COMPLETIONS}"
            base = f"{settings.endpoint}?api-version={quote(settings.api_version, safe='')}"
            headers["api-key"] = settings.key
        else:
            model = os.environ.get("OPENAI_MODEL") or settings.model or "gpt-5-nano"
            path = COMPLETIONS
            elsewhere = os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
            base = settings.endpoint or elsewhere or OPENAI
            headers["authorization"] = f"Bearer {settings.key}"
        if organization := os.environ.get("OPENAI_ORGANIZATION"):
            headers["openai-organization"] = organization
        server = ChatServer(base, headers, timeout_s=settings.request_timeout, where=where)
        super().__init__(server, model, path=path, kept_s=settings.response_cache_ttl)


@dataclass(frozen=True, kw_only=True)
class OllamaSettings(ChatSettings):
    """Metadata of `conversation.ollama`."""

    endpoint: str = setting(OLLAMA, help="base URL")


class OllamaConversation(OpenAIModel):
    """Models served by Ollama."""

    Settings = OllamaSettings

    def __init__(self, settings: OllamaSettings, context: Context) -> None:
        model = os.environ.get("OLLAMA_MODEL") or settings.model or "llama3.2:latest"
        # The server wants no key; clients of the protocol send one all the same.
        server = ChatServer(
            settings.endpoint or OLLAMA,
            {"authorization": "Bearer ollama"},
            timeout_s=settings.request_timeout,
            where=f"component {context.name}",
        )
        super().__init__(server, model, kept_s=settings.response_cache_ttl)


@dataclass(frozen=True, kw_only=True)
class DeepSeekSettings:
    """Metadata of `conversation.deepseek`. Durations in seconds."""

    key: str = setting(secret=True, help="the key of the provider's API")
    model: str = setting("deepseek-chat")
    endpoint: str = setting(DEEPSEEK, help="base URL")
    max_tokens: int = setting(0, help="most tokens of an answer; 0: the provider's own limit")
    request_timeout: float = setting(
        600.0, key="pillion.requestTimeout", parse=seconds, help="longest wait for an answer; 0: no limit"
    )


class DeepSeekConversation(OpenAIModel):
    """Models of DeepSeek; answers are not kept."""

    Settings = DeepSeekSettings

    def __init__(self, settings: DeepSeekSettings, context: Context) -> None:
        server = ChatServer(
            settings.endpoint or DEEPSEEK,
            {"authorization": f"Bearer {settings.key}"},
            timeout_s=settings.request_timeout,
            where=f"component {context.name}",
        )
        super().__init__(server, settings.model or "deepseek-chat", most_tokens=settings.max_tokens)
