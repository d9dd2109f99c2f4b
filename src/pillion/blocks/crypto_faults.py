"""The faults of cryptography (spec `http-api.md` 3.2, `grpc-api.md` 4), and the providers both of its APIs look up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pillion.errors import ApiError, Code, Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.crypto import CryptoProvider

NOT_CONFIGURED = Fault(
    "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED", 500, Code.INTERNAL, "crypto providers not configured", category="crypto"
)
NOT_FOUND = Fault(
    "ERR_CRYPTO_PROVIDER_NOT_FOUND", 400, Code.INVALID_ARGUMENT, "crypto provider {provider} not found",
    category="crypto",
)  # fmt: skip
BAD_REQUEST = Fault("ERR_BAD_REQUEST", 400, Code.INVALID_ARGUMENT, "invalid request: {error}", category="crypto")
MALFORMED = Fault(
    "ERR_MALFORMED_REQUEST", 400, Code.INVALID_ARGUMENT, "failed deserializing HTTP body: {error}", category="crypto"
)
FAILED = Fault("ERR_CRYPTO", 500, Code.INTERNAL, "failed to perform operation: {error}", category="crypto")
KEY = Fault("ERR_CRYPTO_KEY", 500, Code.INTERNAL, "failed to retrieve key {key}: {error}", category="crypto")


class Provider(Protocol):
    """A loaded provider."""

    @property
    def component(self) -> CryptoProvider: ...


def find(providers: Mapping[str, Provider], name: str) -> CryptoProvider:
    """Return a provider; raises `ApiError`."""
    if not providers:
        raise ApiError(NOT_CONFIGURED)
    if not name:
        raise ApiError(BAD_REQUEST, error="missing component name")
    provider = providers.get(name)
    if provider is None:
        raise ApiError(NOT_FOUND, provider=name)
    return provider.component
