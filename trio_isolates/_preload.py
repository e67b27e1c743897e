"""What the forkserver imports before it forks anything: all that an isolate needs.

It is started with Ctrl-C held back, which it would answer with a traceback until it has begun to
ignore it. That is taken back here, in its last moment before.
"""

import contextlib
import importlib
import signal

try:
    importlib.import_module(f"{__package__}._boot")
    importlib.import_module(f"{__package__}._deaths").tell_peaks()
    with contextlib.suppress(ImportError):
        importlib.import_module("setproctitle")
finally:
    _handler = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # drops one that has come meanwhile
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, _handler)
