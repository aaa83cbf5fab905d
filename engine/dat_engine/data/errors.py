"""The error for data that cannot be used."""

from dat_engine.errors import UserError

__all__ = ["DataError"]


class DataError(UserError):
    """A data set is missing, damaged, unreadable or cannot be downloaded; the message is one sentence for the user."""
