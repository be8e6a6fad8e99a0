"""The one way in which a request ends without an answer."""


class Refusal(Exception):
    """A status and one line saying what, where, and what is allowed. It holds no path, no token, no traceback."""

    def __init__(self, status: int, problem: str, retry_after: int | None = None) -> None:
        """`retry_after`: seconds, where the same request may succeed later."""
        super().__init__(problem)
        self.status = status
        self.problem = problem
        self.retry_after = retry_after


def too_late(deadline_ms: float) -> Refusal:
    """What was asked for was not ready in time."""
    return Refusal(503, f"no answer within the deadline of {deadline_ms:g} ms; try again later", 1)


def no_version(version: str) -> Refusal:
    """A version went away before it could answer: two newer ones were published meanwhile."""
    return Refusal(503, f"index version {version} is no longer served; try again", 1)
