"""The end of a supervisor's child to one line of the log, and what is worth reading below it.

This module does not know why a child is started again, nor when: it is told.
"""

from __future__ import annotations

import logging
from typing import Final

from ._errors import IsolateDied, RestartLimitExceeded

_logger: Final = logging.getLogger("trio_isolates.supervisor")


def say_restart(delay: float, siblings: int) -> str:
    """Say that a child is started again, after so many seconds and with so many siblings."""
    when = f"in {delay:.2f} s" if delay > 0 else "at once"
    whom = f", with {siblings} of its siblings" if siblings else ""
    return f", and is started again {when}{whom}"


def log_failure(supervisor: str, child: str, failure: BaseException, what: str) -> None:
    """Warn that a child has failed; what: becomes of it, in words."""
    if isinstance(failure, IsolateDied):  # its frames are ours
        _logger.warning("%r: %r has failed%s: %s", supervisor, child, what, failure)
    elif isinstance(failure, RestartLimitExceeded):  # whose causes the supervisor below has logged
        _logger.warning("%r: %r has failed%s: %s", supervisor, child, what, str(failure).splitlines()[0])
    else:
        _logger.warning("%r: %r has failed%s", supervisor, child, what, exc_info=failure)
