"""Warnings of a library that nobody has imported in an isolate, yet."""


class OddWarning(Warning):
    """What a library warns of."""


class VeryOddWarning(OddWarning):
    """And a kind of it."""
