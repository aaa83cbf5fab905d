"""The error for data that cannot be used."""

__all__ = ["DataError"]


class DataError(ValueError):
    """A data set is missing, damaged, unreadable or cannot be downloaded; the message is one sentence for the user."""
