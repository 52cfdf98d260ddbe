"""The error of a start that is refused."""


class StartError(Exception):
    """A child cannot be started as requested; the text says why."""
