"""An identity provider for tests: discovery, keys, token endpoint. It keeps what it was asked."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from apps import HttpApp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apps import Call


class Issuer(HttpApp):
    """Signs with the newest of its keys. `broken` makes every answer 503; `named` is what discovery calls it."""

    def __init__(self) -> None:
        super().__init__(answer=self._serve)
        self.url = f"http://127.0.0.1:{self.port}"
        self.named = self.url
        self.broken = False
        self.keys: list[Any] = [RSAKey.generate_key(2048, parameters={"kid": "first"})]
        self.grants: list[dict[str, str]] = []
        self.challenges: dict[str, str] = {}
        self.refused_styles: set[str] = set()
        self.lifetime_s = 3600

    def __enter__(self) -> Issuer:
        super().__enter__()
        return self

    def rotate(self) -> None:
        """Sign with a new elliptic key; the old one is gone."""
        self.keys = [ECKey.generate_key("P-256", parameters={"kid": f"later-{len(self.calls)}"})]

    def token(self, *, head: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A token valid for an hour, for the audience `app`, unless told otherwise."""
        key = self.keys[-1]
        algorithm = "RS256" if isinstance(key, RSAKey) else "ES256"
        known = {"iss": self.url, "aud": "app", "exp": int(time.time()) + 3600} | claims
        held = {name: value for name, value in known.items() if value is not None}
        return jwt.encode({"alg": algorithm, "kid": key.kid, **(head or {})}, held, key)

    def authorize(self, location: str) -> str:
        """What the login page does: return the query that a browser comes back with."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        code = f"code-{len(self.challenges)}"
        self.challenges[code] = asked["code_challenge"]
        return f"code={code}&state={asked['state']}"

    def _serve(self, call: Call) -> tuple[int, Mapping[str, str], bytes]:
        kind = {"Content-Type": "application/json"}
        if self.broken:
            return 503, {}, b""
        if call.path == "/.well-known/openid-configuration":
            return 200, kind, json.dumps({"issuer": self.named, "jwks_uri": self.url + "/keys"}).encode()
        if call.path == "/keys":
            return 200, kind, json.dumps(KeySet(self.keys).as_dict(private=False)).encode()
        if call.path == "/token":
            return self._grant(call)
        return 404, {}, b""

    def _grant(self, call: Call) -> tuple[int, Mapping[str, str], bytes]:
        form = {name: values[0] for name, values in parse_qs(call.body.decode()).items()}
        login = call.headers.get("authorization", "")
        style = "header" if login.startswith("Basic ") else "parameters"
        who = base64.b64decode(login[6:]).decode() if login else f"{form.get('client_id')}:{form.get('client_secret')}"
        if style in self.refused_styles or who not in ("me:s%26cret", "me:s&cret"):
            return 401, {}, b""
        if form["grant_type"] == "authorization_code":
            proof = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
            if self.challenges.pop(form["code"], None) != proof.decode():
                return 400, {}, b""
        self.grants.append({**form, "style": style})
        granted = {"access_token": f"t{len(self.grants)}", "token_type": "bearer", "expires_in": self.lifetime_s}
        return 200, {"Content-Type": "application/json"}, json.dumps(granted).encode()
