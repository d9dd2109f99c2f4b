"""The catalogue: which class implements which component type, and which extra its library comes with.

Rows are text: a component's module, and with it its library, is imported only when such a component is loaded.
Other packages add theirs by an entry point of the group `pillion.components` that names a tuple like this one.
"""

from __future__ import annotations

from pillion.records import record


@record
class Entry:
    """One implementation: `type` and `version` as in a Component resource, `path` as `module:class`.

    The class has an attribute `Settings`, a frozen dataclass that `pillion.kinds.component.decode` can fill.
    """

    type: str
    version: str
    path: str
    extra: str = ""
    """The optional dependency group of this distribution that brings the library, when the core does not."""
    given: tuple[tuple[str, str], ...] = ()
    """Metadata that the entry decides and a resource cannot: where a process listens that was found at start."""


_HERE = "pillion.components."

COMPONENTS: tuple[Entry, ...] = (
    Entry("state.in-memory", "v1", _HERE + "memory:MemoryState"),
    Entry("state.sqlite", "v1", _HERE + "sqlite:SqliteState"),
    Entry("state.sqlite3", "v1", _HERE + "sqlite:SqliteState"),
    Entry("state.redis", "v1", _HERE + "redis:RedisState", "redis"),
    Entry("state.postgresql", "v1", _HERE + "postgresql:PostgresState1", "postgresql"),
    Entry("state.postgres", "v1", _HERE + "postgresql:PostgresState1", "postgresql"),
    Entry("state.postgresql", "v2", _HERE + "postgresql:PostgresState2", "postgresql"),
    Entry("state.postgres", "v2", _HERE + "postgresql:PostgresState2", "postgresql"),
    Entry("pubsub.in-memory", "v1", _HERE + "memory_broker:MemoryPubSub"),
    Entry("pubsub.sqlite", "v1", _HERE + "sqlite_broker:SqlitePubSub"),
    Entry("pubsub.redis", "v1", _HERE + "redis_streams:RedisPubSub", "redis"),
    Entry("secretstores.local.file", "v1", _HERE + "local_secrets:FileSecrets"),
    Entry("secretstores.local.env", "v1", _HERE + "local_secrets:EnvironmentSecrets"),
    Entry("bindings.cron", "v1", _HERE + "cron:CronBinding"),
    Entry("bindings.http", "v1", _HERE + "http_binding:HttpBinding"),
    Entry("bindings.localstorage", "v1", _HERE + "localstorage:LocalStorage"),
    Entry("bindings.redis", "v1", _HERE + "redis_binding:RedisBinding", "redis"),
    Entry("bindings.postgresql", "v1", _HERE + "postgres_binding:PostgresBinding", "postgresql"),
    Entry("bindings.postgres", "v1", _HERE + "postgres_binding:PostgresBinding", "postgresql"),
    Entry("bindings.smtp", "v1", _HERE + "smtp:SmtpBinding", "smtp"),
    Entry("configuration.redis", "v1", _HERE + "redis_configuration:RedisConfiguration", "redis"),
    Entry("configuration.postgresql", "v1", _HERE + "postgres_configuration:PostgresConfiguration", "postgresql"),
    Entry("configuration.postgres", "v1", _HERE + "postgres_configuration:PostgresConfiguration", "postgresql"),
    Entry("configuration.sqlite", "v1", _HERE + "sqlite_configuration:SqliteConfiguration"),
    Entry("lock.redis", "v1", _HERE + "redis_lock:RedisLock", "redis"),
    Entry("lock.sqlite", "v1", _HERE + "sqlite_lock:SqliteLock"),
    Entry("crypto.dapr.localstorage", "v1", _HERE + "local_crypto:LocalCrypto", "crypto"),
    Entry("crypto.dapr.jwks", "v1", _HERE + "jwks_crypto:JwksCrypto", "crypto"),
    Entry("conversation.echo", "v1", _HERE + "echo_conversation:EchoConversation"),
    Entry("conversation.openai", "v1", _HERE + "openai_conversation:OpenAIConversation"),
    Entry("conversation.ollama", "v1", _HERE + "openai_conversation:OllamaConversation"),
    Entry("conversation.deepseek", "v1", _HERE + "openai_conversation:DeepSeekConversation"),
    Entry("conversation.anthropic", "v1", _HERE + "anthropic_conversation:AnthropicConversation"),
    Entry("middleware.http.uppercase", "v1", _HERE + "middleware_uppercase:Uppercase"),
    Entry("middleware.http.routeralias", "v1", _HERE + "middleware_routes:RouterAlias"),
    Entry("middleware.http.routerchecker", "v1", _HERE + "middleware_checker:RouterChecker", "re2"),
    Entry("middleware.http.ratelimit", "v1", _HERE + "middleware_ratelimit:RateLimit"),
    Entry("middleware.http.bearer", "v1", _HERE + "middleware_bearer:Bearer", "oauth"),
    Entry("middleware.http.oauth2", "v1", _HERE + "middleware_oauth2:OAuth2", "oauth"),
    Entry(
        "middleware.http.oauth2clientcredentials",
        "v1",
        _HERE + "middleware_client_credentials:ClientCredentials",
        "oauth",
    ),
    Entry("middleware.http.opa", "v1", _HERE + "middleware_opa:Opa", "opa"),
    Entry("middleware.http.wasm", "v1", _HERE + "middleware_wasm:Wasm", "wasm"),
    Entry("middleware.http.sentinel", "v1", _HERE + "middleware_sentinel:Sentinel"),
    Entry("nameresolution.mdns", "v1", _HERE + "mdns:MdnsNames"),
    Entry("nameresolution.sqlite", "v1", _HERE + "sqlite_names:SqliteNames"),
    Entry("nameresolution.pillion", "v1", _HERE + "registry_names:RegistryNames"),
    Entry("nameresolution.consul", "v1", _HERE + "consul_names:ConsulNames"),
    Entry("nameresolution.hashicorp.consul", "v1", _HERE + "consul_names:ConsulNames"),
    Entry("nameresolution.kubernetes", "v1", _HERE + "kubernetes_names:KubernetesNames"),
    Entry("nameresolution.nameformat", "v1", _HERE + "nameformat_names:NameFormat"),
)
