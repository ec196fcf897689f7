"""The bearer token: who may ask for pictures."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from trt_facefusion.errors import BadInputError
from trt_facefusion.serving.problems import UnauthorizedError
from trt_facefusion.storage.files import read_regular

VARIABLE = "TRT_FF_TOKEN"
_SHORTEST = 16


class BearerToken:
    """A secret that requests have to bring; nothing shows it."""

    def __init__(self, secret: str) -> None:
        if len(secret) < _SHORTEST or not secret.isascii() or not secret.isprintable() or " " in secret:
            raise BadInputError(
                f"the token is not {_SHORTEST} or more printable ASCII letters without a space",
                "make one, for example with: openssl rand -base64 32",
            )
        self._digest = hashlib.sha256(secret.encode()).digest()

    def require(self, authorization: bytes | None) -> None:
        """Raise `UnauthorizedError` unless the header ``authorization`` brings the token; takes as long for any."""
        scheme, _, secret = (authorization or b"").strip().partition(b" ")
        same = hmac.compare_digest(hashlib.sha256(secret.strip()).digest(), self._digest)
        if scheme.lower() != b"bearer" or not same:
            raise UnauthorizedError(
                "this service wants a token, and the request brings none or another one",
                "send the header Authorization: Bearer TOKEN",
            )


def read_token(file: Path | None, environment: Mapping[str, str] = os.environ) -> BearerToken | None:
    """The token in ``file``, else in the variable `VARIABLE`, else none.

    Raises:
        BadInputError: the file cannot be read, or what it holds is no token.
    """
    if file is not None:
        return BearerToken(read_regular(file, "token", limit_bytes=1 << 16).decode("utf-8", "replace").strip())
    secret = environment.get(VARIABLE, "").strip()
    return BearerToken(secret) if secret else None
