"""The two ways a command can end badly."""


class UserError(Exception):
    """The call or its input is wrong: one line saying what, where, and what is allowed (exit code 2)."""


class JobError(Exception):
    """The job failed though the call was right: one line saying what and where to look (exit code 1)."""
