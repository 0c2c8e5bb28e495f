"""Asking an OpenID Connect provider who somebody is: authorization code flow with PKCE. No database and no pages here.

Signatures and claims are checked by joserfc. What a browser must bring back (state, nonce, PKCE's verifier) is derived from one secret in its cookie,
so nothing is stored and any worker can finish what another began. Sources: OpenID Connect Core 1.0, Discovery 1.0, RFC 7636, RFC 9207.
"""

import base64
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from prefloop.configs.sign_in import EVERYBODY, LOOPBACK, SignIn
from prefloop.errors import InputError
from prefloop.studio.values import NotAllowed

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a public key. Others (`none`, `HS256`) could be made by somebody who is not the provider."""
LEEWAY = 60
"""Seconds that clocks may differ."""
KEPT_SECONDS, AGAIN_SECONDS = 3600, 30
"""How long the provider's addresses and keys are kept, and how soon they are fetched anew for a key that is not among them."""
SECONDS = 10
"""Patience with the provider."""
STALE = "signing in took too long, or began in another browser; start again"


class NoProvider(InputError):
    """The provider cannot be asked, or is not as its settings say. The message is for the operator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who the provider says somebody is."""

    issuer: str
    subject: str
    """Theirs for ever at this provider, unlike the address."""
    email: str
    """Lower case; empty unless the provider has verified it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """What was fetched from the provider."""

    addresses: Mapping[str, Any]
    keys: Any
    at: float


class Provider:
    """A provider, and this studio's place there. Raises `InputError` where the settings cannot work. Threads may share one."""

    def __init__(
        self,
        settings: SignIn,
        *,
        transport: httpx.BaseTransport | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        if find_spec("joserfc") is None:
            raise InputError("oidc needs the package joserfc; run: pip install 'prefloop[sso]'")
        self.settings = settings
        self._secret = _secret(settings)
        self._client = httpx.Client(
            timeout=SECONDS, transport=transport, headers={"Accept": "application/json"}
        )
        self._now = now
        self._known: _Known | None = None
        self._lock = threading.Lock()

    def begin(self, secret: str, back: str) -> str:
        """Where to send a browser that has `secret` in a cookie; it returns to `back`."""
        return self._address("authorization_endpoint") + urlencode(
            {
                "response_type": "code",
                "client_id": self.settings.client_id,
                "redirect_uri": back,
                "scope": "openid email",
                "state": derived(secret, "state"),
                "nonce": derived(secret, "nonce"),
                "code_challenge": _base64(hashlib.sha256(derived(secret, "verifier").encode()).digest()),
                "code_challenge_method": "S256",
            }
        )

    def finish(self, secret: str, back: str, given: Mapping[str, str]) -> Identity:
        """Who came back with these parameters in the address.

        Raises `NotAllowed` if the provider refused or its answer is not for this browser, `NoProvider` if it cannot be reached.
        """
        if not secret or not hmac.compare_digest(
            given.get("state", "").encode(), derived(secret, "state").encode()
        ):
            raise NotAllowed(STALE)
        if given.get("iss", self.settings.issuer) != self.settings.issuer:
            raise NotAllowed("this answer comes from another provider; start again")
        if "error" in given or "code" not in given:
            raise NotAllowed(
                f"{self.settings.name} did not sign you in ({_shown(given.get('error', 'no code'))})"
            )
        tokens = self._tokens(given["code"], back, derived(secret, "verifier"))
        claims = self._claims(str(tokens.get("id_token", "")), derived(secret, "nonce"))
        if "email" not in claims:
            claims |= self._user(str(tokens.get("access_token", "")), claims["sub"])
        email = str(claims.get("email", "")).strip().lower() if claims.get("email_verified") is True else ""
        return Identity(
            issuer=self.settings.issuer, subject=claims["sub"], email=email if email.count("@") == 1 else ""
        )

    def ending(self, back: str) -> str:
        """Where somebody ends the session at the provider itself; empty if it has no such page."""
        try:
            if "end_session_endpoint" not in self._fetched().addresses:
                return ""
            where = self._address("end_session_endpoint")
        except InputError:
            return ""
        return where + urlencode({"client_id": self.settings.client_id, "post_logout_redirect_uri": back})

    def admits(self, email: str) -> bool:
        """Whether somebody with this verified address may have an account made."""
        domains = {domain.lower() for domain in self.settings.domains}
        return bool(email) and (EVERYBODY in domains or email.rpartition("@")[2] in domains)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _tokens(self, code: str, back: str, verifier: str) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
            "code_verifier": verifier,
        }
        ways = self._fetched().addresses.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        basic: httpx.BasicAuth | httpx._client.UseClientDefault = httpx.USE_CLIENT_DEFAULT
        if self._secret and "client_secret_basic" in ways:
            basic = httpx.BasicAuth(*(_quoted(each) for each in (self.settings.client_id, self._secret)))
        else:
            form |= {"client_id": self.settings.client_id} | (
                {"client_secret": self._secret} if self._secret else {}
            )
        address = self._endpoint("token_endpoint")
        told = self._asked(lambda: self._client.post(address, data=form, auth=basic))
        if told.status_code != 200:
            reason = _json(told).get("error", told.status_code)
            raise NotAllowed(f"{self.settings.name} did not sign you in ({_shown(reason)})")
        return _json(told)

    def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        """What a token says, whose signature and claims are right."""
        from joserfc import jwt  # pyright: ignore[reportMissingImports]  # an extra
        from joserfc.errors import JoseError  # pyright: ignore[reportMissingImports]

        client = self.settings.client_id
        wanted = jwt.JWTClaimsRegistry(
            now=lambda: int(self._now()),
            leeway=LEEWAY,
            iss={"essential": True, "value": self.settings.issuer},
            aud={"essential": True, "value": client},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            claims = self._decoded(token).claims
            wanted.validate(claims)
        except (JoseError, ValueError) as error:
            raise NotAllowed(f"the answer of {self.settings.name} cannot be trusted ({error})") from error
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if claims.get("azp", client if audiences == [client] else "") != client:
            raise NotAllowed(f"the answer of {self.settings.name} is for another program")
        return dict(claims)

    def _decoded(self, token: str) -> Any:
        """A token whose signature is right. The provider may have new keys since they were fetched."""
        from joserfc import jwt  # pyright: ignore[reportMissingImports]
        from joserfc.errors import JoseError  # pyright: ignore[reportMissingImports]

        known = self._fetched()
        try:
            return jwt.decode(token, known.keys, algorithms=list(ALGORITHMS))
        except (JoseError, ValueError):
            again = self._fetched(but=known)
            if again is known:
                raise
            return jwt.decode(token, again.keys, algorithms=list(ALGORITHMS))

    def _user(self, token: str, subject: str) -> dict[str, Any]:
        """What the provider tells of somebody only when asked."""
        if "userinfo_endpoint" not in self._fetched().addresses or not token:
            return {}
        address = self._endpoint("userinfo_endpoint")
        told = _json(
            self._asked(lambda: self._client.get(address, headers={"Authorization": f"Bearer {token}"}))
        )
        # OpenID Connect Core 5.3.2: an answer about somebody else must not be used.
        return (
            {name: told[name] for name in ("email", "email_verified") if name in told}
            if told.get("sub") == subject
            else {}
        )

    def _fetched(self, *, but: _Known | None = None) -> _Known:
        """The provider's addresses and keys, fetched if they are too old. `but`: those that did not do, if they are not quite new."""
        from joserfc.jwk import KeySet  # pyright: ignore[reportMissingImports]

        with self._lock:
            now, known = self._now(), self._known
            if known is not None and now < known.at + (AGAIN_SECONDS if known is but else KEPT_SECONDS):
                return known
            where = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            addresses = _json(self._asked(lambda: self._client.get(where)))
            if addresses.get("issuer") != self.settings.issuer:
                raise NoProvider(
                    f"oidc.issuer is {self.settings.issuer}, but {where} says {_shown(addresses.get('issuer'))}; write it as it says"
                )
            listed = _json(
                self._asked(lambda: self._client.get(_safe(addresses, "jwks_uri", self.settings.issuer)))
            )
            # Keys that cannot be used here, such as those for encryption, are none of ours.
            usable = [
                key
                for key in listed.get("keys", [])
                if key.get("kty") != "oct" and key.get("use", "sig") == "sig"
            ]
            try:
                keys = KeySet.import_key_set({"keys": usable})
            except ValueError as error:
                raise NoProvider(f"the keys of {self.settings.issuer} cannot be read ({error})") from error
            self._known = _Known(addresses=addresses, keys=keys, at=now)
            return self._known

    def _endpoint(self, name: str) -> str:
        return _safe(self._fetched().addresses, name, self.settings.issuer)

    def _address(self, name: str) -> str:
        """An address to add parameters to."""
        address = self._endpoint(name)
        return address + ("&" if "?" in address else "?")

    def _asked(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        try:
            told = send()
        except httpx.HTTPError as error:
            raise NoProvider(
                f"{self.settings.issuer} cannot be reached ({error or type(error).__name__})"
            ) from error
        if told.status_code >= 500:
            raise NoProvider(f"{self.settings.issuer} answers with status {told.status_code}")
        return told


def new_secret() -> str:
    """For the cookie of a browser that begins to sign in."""
    return secrets.token_urlsafe(32)


def derived(secret: str, purpose: str) -> str:
    """What a browser's secret becomes for one purpose. From one of them nobody learns another."""
    return _base64(hmac.digest(secret.encode(), purpose.encode(), "sha256"))


def _secret(settings: SignIn) -> str:
    if not settings.secret_file:
        return os.environ.get(settings.secret_variable, "")
    try:
        found = Path(settings.secret_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"oidc.secret_file is {settings.secret_file}, which cannot be read ({error})"
        ) from error
    if not found:
        raise InputError(
            f"oidc.secret_file is {settings.secret_file}, which is empty; write the client secret into it"
        )
    return found


def _safe(addresses: Mapping[str, Any], name: str, issuer: str) -> str:
    """An address that the provider names, with TLS unless the provider has none either."""
    address = addresses.get(name)
    allowed = ("https://", *(LOOPBACK if issuer.startswith(LOOPBACK) else ()))
    if not isinstance(address, str) or not address.startswith(allowed):
        raise NoProvider(f"{issuer} names no {name} that can be used ({_shown(address)})")
    return address


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise NoProvider(f"{answer.request.url.copy_with(query=None)} does not answer with JSON")
    return told


def _quoted(text: str) -> str:
    """RFC 6749, 2.3.1: what goes into Basic authentication is form-encoded first."""
    return urlencode({"": text})[1:]


def _shown(given: object) -> str:
    """A word from elsewhere, short and without anything that could act."""
    return "".join(letter for letter in str(given)[:80] if letter.isprintable())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
