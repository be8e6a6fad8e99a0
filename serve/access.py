"""Who may ask: bearer tokens, from a file or the environment, compared in constant time."""

import hashlib
import hmac
import os
from pathlib import Path

from ucdr_ray.errors import UserError

ADMIN_TOKENS, TOKENS = "UCDR_SERVE_ADMIN_TOKENS", "UCDR_SERVE_TOKENS"  # in the environment

_SHORTEST = 16  # characters that nobody guesses


class Tokens:
    """Those that are allowed. Only their hashes are kept, so that no log and no crash can show one."""

    def __init__(self, tokens: list[str]) -> None:
        self._hashes = [_hash(token) for token in tokens]

    @classmethod
    def read(cls, file: Path | None, variable: str) -> "Tokens":
        """From the file's lines, else from the variable, separated by commas.

        Raises:
            UserError: the file can't be read, or a token is too short.
        """
        if file is not None:
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                raise UserError(f"cannot read the tokens in {file}") from None
            where, found = str(file), [line.strip() for line in text.splitlines()]
        else:
            where, found = variable, [word.strip() for word in os.environ.get(variable, "").split(",")]
        tokens = [token for token in found if token and not token.startswith("#")]
        if any(len(token) < _SHORTEST for token in tokens):
            raise UserError(f"{where}: a token of less than {_SHORTEST} characters can be guessed")
        if file is not None and not tokens:
            raise UserError(f"{where}: no token in it")
        return cls(tokens)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def allow(self, header: str | None) -> bool:
        """Whether an Authorization header holds one of them."""
        scheme, _, token = (header or "").partition(" ")
        given = _hash(token.strip())
        same = [hmac.compare_digest(given, known) for known in self._hashes]  # all, whichever it is
        return scheme.lower() == "bearer" and any(same)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
