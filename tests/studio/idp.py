"""A small OpenID Connect provider that signs with real keys, as an `httpx` transport; a test can make it lie."""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
from joserfc import jwt  # pyright: ignore[reportMissingImports]  # an extra
from joserfc.jwk import KeySet, RSAKey  # pyright: ignore[reportMissingImports]

ISSUER, CLIENT, SECRET = "https://id.example.org", "the studio", "s&cret"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Idp(httpx.BaseTransport):
    """Who is signed in there is `user`."""

    user: dict[str, Any] = field(
        default_factory=lambda: {"sub": "u-1", "email": "Ann@Example.org", "email_verified": True}
    )
    at: float = 0.0
    """The time that its tokens say."""
    lies: dict[str, Any] = field(default_factory=dict)
    """Claims instead of the true ones; None leaves one out."""
    discovery: dict[str, Any] = field(default_factory=dict)
    in_token: bool = True
    """Whether the address is in the token, or has to be asked for."""
    algorithm: str = "RS256"
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = [self.new_key("one")]
        self.signing = self.keys[0]

    @staticmethod
    def new_key(name: str) -> Any:
        """A key that it may sign with."""
        return RSAKey.generate_key(2048, {"kid": name, "use": "sig"})

    def agree(self, address: str) -> str:
        """What the browser does there: the query it comes back with."""
        asked = dict(parse_qsl(urlsplit(address).query))
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return f"code={code}&state={asked['state']}&iss={ISSUER}"

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(path)
        return {
            "/.well-known/openid-configuration": self._discovery,
            "/keys": lambda _: httpx.Response(200, json=KeySet(self.keys).as_dict(private=False)),
            "/token": self._token,
            "/user": self._user,
        }[path](request)

    def _discovery(self, _: httpx.Request) -> httpx.Response:
        told = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/authorize?tenant=1",
            "token_endpoint": f"{ISSUER}/token",
            "userinfo_endpoint": f"{ISSUER}/user",
            "jwks_uri": f"{ISSUER}/keys",
            "end_session_endpoint": f"{ISSUER}/end",
        }
        return httpx.Response(200, json=told | self.discovery)

    def _token(self, request: httpx.Request) -> httpx.Response:
        form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
        asked = self.codes.pop(form["code"], None)
        challenge = _base64(hashlib.sha256(form["code_verifier"].encode()).digest())
        who = base64.b64encode(b"the+studio:s%26cret").decode()
        fits = (
            asked is not None
            and asked["code_challenge"] == challenge
            and asked["redirect_uri"] == form["redirect_uri"]
        )
        if not fits or request.headers.get("authorization") != f"Basic {who}":
            return httpx.Response(400, json={"error": "invalid_grant"})
        assert asked is not None
        claims = {
            "iss": ISSUER,
            "aud": CLIENT,
            "iat": int(self.at),
            "exp": int(self.at) + 300,
            "nonce": asked["nonce"],
            "sub": self.user["sub"],
        }
        claims |= self.user if self.in_token else {}
        claims = {name: value for name, value in (claims | self.lies).items() if value is not None}
        return httpx.Response(
            200, json={"id_token": self._signed(claims), "access_token": "a", "token_type": "Bearer"}
        )

    def _signed(self, claims: dict[str, Any]) -> str:
        if self.algorithm in ("none", "HS256"):  # which joserfc refuses to make
            head = json.dumps({"alg": self.algorithm, "kid": self.signing.kid})
            text = f"{_base64(head.encode())}.{_base64(json.dumps(claims).encode())}"
            public = self.signing.as_pem(private=False)  # as if it were a secret
            mac = hmac.digest(public, text.encode(), "sha256") if self.algorithm == "HS256" else b""
            return f"{text}.{_base64(mac)}"
        return jwt.encode({"alg": self.algorithm, "kid": self.signing.kid}, claims, self.signing)

    def _user(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer a"
        return httpx.Response(200, json=self.user)
