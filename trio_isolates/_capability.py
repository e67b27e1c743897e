"""`Capability`: a token that proves that one was given it."""

from __future__ import annotations

import os
from typing import final

from attrs import field, frozen


@final
@frozen
class Capability:
    """A token that nobody can guess: equal to itself wherever it has been, and to nothing else."""

    _token: bytes = field(factory=lambda: os.urandom(16), init=False)
