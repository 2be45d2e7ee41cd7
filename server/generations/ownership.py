"""Whose generation it is: who may steer it and read its trace.

Where the operator has set API keys, the key that a generation was started with; where there are none, its token:
chosen by the client in a header, or made here and told in the first chunk. Secrets are compared as digests, in
constant time, and only a short prefix of a digest is ever logged.

Runs in the HTTP process. No torch, no vLLM.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from server.errors import FieldError, NotOwnerError
from server.requests.keys import digest_of, secret_of

TOKEN_HEADER = "X-Generation-Token"
MIN_TOKEN_LENGTH = 16
MAX_TOKEN_LENGTH = 128


@dataclass(frozen=True, slots=True)
class Owner:
    """Who started a generation.

    Attributes:
        token: the generation's, as the answer tells it.
        name: for logs: which kind of secret, and a prefix of its digest.
        digest: of the secret that proves the ownership; None where there was none, so that nobody is the owner.
    """

    token: str = field(repr=False)
    name: str
    digest: bytes | None = field(repr=False)


NOBODY = Owner(token="", name="nobody", digest=None)
"""Of generations that no route can ask for."""


class Ownership:
    """Claims and checks, by API key or by token."""

    def __init__(self, *, by_api_key: bool) -> None:
        """Args: `by_api_key`: the operator has set keys; that a request carries one of them is vLLM's to check."""
        self._by_api_key = by_api_key

    def claim(self, headers: Mapping[str, str]) -> Owner:
        """The owner of the generation that a request with these headers starts.

        Raises:
            FieldError: the token that the client chose cannot be one.
        """
        token = _checked_token(headers.get(TOKEN_HEADER)) or secrets.token_urlsafe(24)
        secret = secret_of(headers) if self._by_api_key else token
        return Owner(token, self._name(secret), None if secret is None else digest_of(secret))

    def shows_secret(self, headers: Mapping[str, str]) -> bool:
        """Whether these headers hold a secret at all, be it the right one or not."""
        return self._secret(headers) is not None

    def caller(self, headers: Mapping[str, str]) -> str:
        """Who sends these headers, for logs."""
        return self._name(self._secret(headers))

    def check(self, owner: Owner, headers: Mapping[str, str]) -> None:
        """Refuse everybody but the owner.

        Raises:
            NotOwnerError: the headers hold no secret, or another.
        """
        secret = self._secret(headers)
        if secret is None or owner.digest is None or not secrets.compare_digest(digest_of(secret), owner.digest):
            needed = "the API key that started it" if self._by_api_key else f"its token, in the header {TOKEN_HEADER}"
            raise NotOwnerError(f"this generation can only be read and changed with {needed}")

    def _secret(self, headers: Mapping[str, str]) -> str | None:
        return secret_of(headers) if self._by_api_key else headers.get(TOKEN_HEADER)

    def _name(self, secret: str | None) -> str:
        kind = "key" if self._by_api_key else "token"
        return f"{kind}:{'none' if secret is None else digest_of(secret).hex()[:8]}"


def _checked_token(token: str | None) -> str | None:
    if token is None:
        return None
    if MIN_TOKEN_LENGTH <= len(token) <= MAX_TOKEN_LENGTH and token.isascii() and token.isprintable():
        return token
    # A secret is not repeated, not even a bad one: answers end up in logs.
    allowed = f"{MIN_TOKEN_LENGTH} to {MAX_TOKEN_LENGTH} printable ASCII characters"
    raise FieldError(TOKEN_HEADER, f"{len(token)} characters", allowed)
