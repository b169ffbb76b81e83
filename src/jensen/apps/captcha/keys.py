"""The secret of the service: one key that signs, and one before it that is still recognised."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence


class Keys:
    """Keyed digests (HMAC-SHA256). A key has an id, so that a secret can be replaced while challenges are open.

    Args:
        secrets: the current secret, and perhaps the previous one.

    >>> new = Keys(["n" * 32, "o" * 32])
    >>> old = Keys(["o" * 32])
    >>> new.knows(old.current), old.knows(new.current)
    (True, False)
    """

    def __init__(self, secrets: Sequence[str]):
        self._ring = {_id(secret.encode()): secret.encode() for secret in secrets}
        self.current = next(iter(self._ring))

    def knows(self, key: str) -> bool:
        """Whether there is a key with this id."""
        return key in self._ring

    def digest(self, key: str, purpose: str, *fields: str | int | bytes) -> bytes:
        """The digest of fields, each preceded by its length, so that no two lists of fields are the same bytes."""
        return hmac.digest(self._ring[key], _joined(purpose, *fields), hashlib.sha256)


def _joined(*fields: str | int | bytes) -> bytes:
    encoded = [field if isinstance(field, bytes) else str(field).encode(errors="surrogatepass") for field in fields]
    return b"".join(len(field).to_bytes(4, "big") + field for field in encoded)


def _id(secret: bytes) -> str:
    """Eight hexadecimal digits, from which the secret cannot be found."""
    return hmac.digest(secret, _joined("key id"), hashlib.sha256).hex()[:8]
