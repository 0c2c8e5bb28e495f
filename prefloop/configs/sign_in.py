"""Settings of single sign-on for the studio."""

from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import require

EVERYBODY = "*"
LOOPBACK = ("http://127.0.0.1:", "http://localhost:", "http://[::1]:")
"""Where a provider may be without TLS: for trying it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignIn:
    """Sign people in through an OpenID Connect provider."""

    issuer: str = ""
    """The provider's address, as its discovery document names it, for example https://accounts.google.com. Empty turns single sign-on off."""
    client_id: str = ""
    """What the provider calls this studio. Register https://YOUR.ADDRESS/login/oidc/back as its redirect address there."""
    secret_file: str = ""
    """File with the client secret."""
    secret_variable: str = "PREFLOOP_OIDC_SECRET"
    """Environment variable with the client secret, where no file is named. If it is not set, the studio is a public client, which has PKCE alone."""
    name: str = "single sign-on"
    """What the button says after *Sign in with*."""
    domains: tuple[str, ...] = ()
    """Domains of the e-mail addresses that may sign in; `*` for any address that the provider has verified. None admits only people who have an account."""
    role: Literal["annotator", "adjudicator"] = "annotator"
    """Role of accounts that signing in makes."""
    projects: tuple[str, ...] = ()
    """Projects that such accounts belong to, besides those open to everybody; by name or number."""

    def __post_init__(self) -> None:
        if not self.issuer:
            require(
                not (self.client_id or self.secret_file or self.domains or self.projects),
                "oidc settings are given, but oidc.issuer is empty; name the provider, or leave them out",
            )
            return
        require(
            self.issuer.startswith(("https://", *LOOPBACK)),
            f"oidc.issuer is {self.issuer}; it must be an https:// address",
        )
        require(
            bool(self.client_id),
            "oidc.client_id is empty; the provider names it where you register the studio",
        )
        for domain in self.domains:
            require(
                domain == EVERYBODY or ("." in domain and "@" not in domain and " " not in domain),
                f"oidc.domains has {domain!r}; write a domain such as example.org, or * for any verified address",
            )
        require(
            bool(self.domains) or not self.projects,
            "oidc.projects are named, but oidc.domains is empty, so signing in makes no account; name domains, or leave projects out",
        )
