"""`SharedBuffer`: memory that one isolate fills and another one gets, without a copy.

Its memory is a file without a name, which lives as long as somebody has it open or mapped: nothing
is left of it when those who have it are gone, however they went. This module does not know how a
descriptor travels.
"""

from __future__ import annotations

# pyright: reportPrivateUsage=false
# (users see of a buffer what they may use; the functions below do the rest)
import _thread
import gc
import mmap
import operator
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pickle import PickleBuffer
from typing import Any, Final, final

from ._errors import ProtocolError, UnsendableError

if sys.platform == "linux":
    import fcntl

    _FIXED: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    _SEAL_FUTURE_WRITE: Final = 0x10
HAS_MEMORY_FILES: Final = sys.platform == "linux" and hasattr(os, "memfd_create")
_NAME: Final = "trio_isolates.SharedBuffer"
_SLOW: Final = 8 << 20  # bytes from which memory is given back to the system in a thread of its own


def open_memory_file(size: int, *, is_final: bool = False) -> int:
    """Return a descriptor of `size` bytes of zeros that nobody can resize. Raises `OSError`.

    is_final: nor make read-only.
    """
    fd = os.memfd_create("trio_isolates_memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED | (fcntl.F_SEAL_SEAL if is_final else 0))
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_memory_file(fd: int, size: int) -> None:
    """Raise `ProtocolError` unless the descriptor has memory of at least that size, for good."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as exc:
        raise ProtocolError("a descriptor that is no memory") from exc
    if seals & _FIXED != _FIXED or os.fstat(fd).st_size < size:
        raise ProtocolError(f"no memory of {size} bytes behind a descriptor")


def let_go(memory: mmap.mmap | None, fd: int, size: int) -> None:
    """Unmap and close, large ones in a thread; may be called in a garbage collection.

    Memory at which somebody still looks is unmapped by the last who does.
    """
    if size >= _SLOW:
        try:
            # Not `threading`: a collection may come while that holds its own lock.
            _thread.start_new_thread(_let_go, (memory, fd))
            return
        except RuntimeError:  # no thread to be had, or the interpreter ends
            pass
    _let_go(memory, fd)


def _let_go(memory: mmap.mmap | None, fd: int) -> None:
    if memory is not None:
        try:
            memory.close()
        except BufferError:
            pass
    if fd >= 0:
        os.close(fd)


def _count(view: memoryview) -> tuple[int, Any]:
    (export,) = gc.get_referents(view)  # which all views of the same memory have in common
    return sys.getrefcount(export), export


_ALONE: Final = _count(memoryview(bytearray(1)))[0]


def _others_look(view: memoryview) -> bool:
    """True if there are other views of the memory, say those in arrays, besides this one.

    To release the view and see what happens would end it, even if it is to stay.
    """
    count, export = _count(view)
    return count > _ALONE and any(
        type(other) is memoryview and other is not view and _is_open(other)
        for other in gc.get_referrers(export)
    )


def _is_open(view: memoryview) -> bool:
    try:
        return view.nbytes >= 0
    except ValueError:
        return False


@final
class SharedBuffer:
    """Memory that is handed over when it is sent, in no time however large it is.

        buffer = SharedBuffer.allocate(8 * n)
        np.frombuffer(buffer.view)[:] = ...
        await worker.call(buffer)

    Made by `allocate` and `from_buffer`. It may be anywhere in a message: among the arguments of a
    call, in a result, in what is sent to a port. Who receives it has a `SharedBuffer` of the same
    memory; at the sender its views are dead from then on (`ValueError`). As long as an array or
    another view looks at the memory it cannot be sent (`UnsendableError`, and nothing has changed):
    delete those first. If the message is not sent, because another part of it cannot be pickled or
    nobody is there to take it, the sender keeps the buffer. An exception takes only a copy along.

    The memory goes back to the system when the last isolate that has it lets go of it, or dies.
    Where the system has no files without a name (macOS), the content is copied; all else is the same.
    """

    __slots__ = ("__weakref__", "_fd", "_is_gone", "_is_readonly", "_memory", "_size", "_view")

    _fd: int
    _size: int
    _memory: mmap.mmap | bytearray | None
    _view: memoryview | None
    _is_readonly: bool
    _is_gone: bool

    def __init__(self) -> None:
        raise TypeError("make one by SharedBuffer.allocate(nbytes) or SharedBuffer.from_buffer(buffer)")

    @classmethod
    def _make(
        cls, fd: int, size: int, memory: mmap.mmap | bytearray | None = None, *, is_readonly: bool = False
    ) -> SharedBuffer:
        self = cls.__new__(cls)
        self._fd, self._size, self._memory, self._view = fd, size, memory, None
        self._is_readonly, self._is_gone = is_readonly, False
        return self

    @classmethod
    def allocate(cls, nbytes: int) -> SharedBuffer:
        """Return `nbytes` bytes of zeros, to be written through `view`.

        The system gives the memory page by page, when it is written to. Raises `ValueError` for a
        negative size, `OSError` if the system has no descriptor left.
        """
        try:
            size = operator.index(nbytes)
        except TypeError:
            raise TypeError(f"nbytes must be an int, not {nbytes!r}") from None
        if not 0 <= size <= sys.maxsize:
            raise ValueError(f"nbytes must be from 0 to {sys.maxsize}, not {size}")
        if not size:
            return cls._make(-1, 0, bytearray())
        if not HAS_MEMORY_FILES:
            return cls._make(-1, size, mmap.mmap(-1, size))
        return cls._make(open_memory_file(size), size)

    @classmethod
    def from_buffer(cls, source: Any) -> SharedBuffer:
        """Return a copy of anything that has contiguous memory: bytes, an array, a view.

        Raises `TypeError` for what has no memory to look at, `BufferError` if it is not contiguous.
        """
        with PickleBuffer(source).raw() as raw:
            made = cls.allocate(raw.nbytes)
            made.view[:] = raw
        return made

    @property
    def view(self) -> memoryview:
        """The bytes, as they are in memory; read-only after `share`. Raises `ValueError` if it was sent."""
        self._check_mine()
        if self._view is None:
            view = memoryview(self._map())
            self._view = view.toreadonly() if self._is_readonly else view
        return self._view

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        state = ", handed over" if self._is_gone else ", shared" if self._is_readonly else ""
        return f"<trio_isolates.SharedBuffer of {self._size} bytes{state}>"

    def share(self) -> SharedBuffer:
        """Return a read-only buffer of the same memory, which may be sent many times, to many isolates.

        Nobody can write to it any more, and this one is dead as if it had been sent. The memory of
        a shared one stays where it is when it is sent. Raises `BufferError` if an array or another
        view looks at the memory, `ValueError` if it was sent.
        """
        self._check()
        if self._is_readonly:
            return self
        if self._fd < 0:
            shared = self._make(-1, self._size, self._memory, is_readonly=True)
            self._spend()
            return shared
        fd = os.dup(self._fd)
        shared = self._make(fd, self._size, is_readonly=True)
        memory = self._forget_view()
        if memory is not None:
            memory.close()  # here and now: what is mapped for writing cannot be sealed
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        except OSError:  # EBUSY: who sent it here is still about to unmap it
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE)
        self._spend()
        return shared

    def __reduce__(self) -> tuple[Any, ...]:
        """For all but a message of ours: a copy."""
        return opened, (bytes(self.view), self._is_readonly)

    def __del__(self) -> None:
        if hasattr(self, "_is_gone") and not self._is_gone:
            self._end()

    # For who sends it.

    @property
    def is_readonly(self) -> bool:
        return self._is_readonly

    def _check_mine(self) -> None:
        if self._is_gone:
            raise ValueError("this SharedBuffer is somebody else's: it was sent, or `share` was called")

    def _check(self) -> None:
        """Raise `ValueError` if it was sent, `BufferError` if somebody looks at what is to be sent."""
        self._check_mine()
        if self._view is not None and not self._is_readonly and _others_look(self._view):
            raise BufferError("an array, or another view, still looks at its memory; delete that first")

    def _spend(self) -> None:
        """It was sent: its view is dead from now on. A shared one stays. Raises as `_check`."""
        self._check()
        if self._is_readonly:
            return
        if self._view is not None:
            self._view.release()  # a BufferError: something uses the view itself
        self._is_gone = True
        self._end()

    def _content(self) -> memoryview:
        """Return the bytes, for who sends them the long way; they live on when this is spent."""
        return memoryview(self._map()).toreadonly()

    def _twin(self) -> SharedBuffer:
        """Return another one of the same memory, by which this one can be brought back to life."""
        if self._fd < 0:
            return self._make(-1, self._size, self._memory, is_readonly=self._is_readonly)
        return self._make(os.dup(self._fd), self._size, is_readonly=self._is_readonly)

    def _revive(self, twin: SharedBuffer) -> None:
        """The message did not arrive: it is here again, as it was. The twin is used up."""
        if self._is_gone:
            self._fd, self._memory, self._is_gone = twin._fd, twin._memory, False
            twin._fd, twin._memory, twin._is_gone = -1, None, True

    def _map(self) -> mmap.mmap | bytearray:
        if self._memory is None:
            if self._is_readonly:
                # Private: older kernels refuse a shared mapping of what is sealed against writes.
                self._memory = mmap.mmap(self._fd, self._size, mmap.MAP_PRIVATE, mmap.PROT_READ)
            else:
                self._memory = mmap.mmap(self._fd, self._size)
        return self._memory

    def _forget_view(self) -> mmap.mmap | None:
        if self._view is not None:
            self._view.release()
        self._view = None
        memory, self._memory = self._memory, None
        return memory if isinstance(memory, mmap.mmap) else None

    def _end(self) -> None:
        """Let go of the memory. What a twin may have too, as there is no descriptor, ends by itself."""
        view, self._view = self._view, None
        memory, self._memory = self._memory, None
        fd, self._fd = self._fd, -1
        del view
        if fd >= 0:
            let_go(memory if isinstance(memory, mmap.mmap) else None, fd, self._size)


@final
class Token(bytearray):
    """Stands in a pickle's list of buffers for a `SharedBuffer`."""

    buffer: SharedBuffer


def reduce_shared(buffer: SharedBuffer) -> tuple[Any, ...]:
    """Reduce it to what is sent beside the pickle. Raises `ValueError` or `BufferError` if it cannot be."""
    buffer._check()
    token = Token(1)
    token.buffer = buffer
    return opened, (PickleBuffer(token), buffer.is_readonly)


def opened(content: Any, is_readonly: bool) -> SharedBuffer:
    """Return what was sent, as it arrived: itself, or its content."""
    if isinstance(content, SharedBuffer):
        return content
    copy = SharedBuffer.from_buffer(content)
    return copy.share() if is_readonly else copy


def _spendable(buffers: Sequence[object]) -> list[SharedBuffer]:
    return [b for b in buffers if isinstance(b, SharedBuffer) and not b.is_readonly]


def twins(buffers: Sequence[object]) -> list[tuple[SharedBuffer, SharedBuffer]]:
    """Return those that sending will spend, each with another one of the same memory.

    Without those for which no descriptor is left.
    """
    found: list[tuple[SharedBuffer, SharedBuffer]] = []
    for buffer in _spendable(buffers):
        with suppress(OSError):
            found.append((buffer, buffer._twin()))
    return found


def fd_of(buffer: SharedBuffer) -> int:
    """Return the descriptor of its memory; -1 if it has none."""
    return buffer._fd


def content_of(buffer: SharedBuffer) -> memoryview:
    """Return its bytes, for who sends them the long way; they live on when it is spent."""
    return buffer._content()


def revive(buffer: SharedBuffer, twin: SharedBuffer) -> None:
    """The message did not arrive: the buffer is here again, as it was. The twin is used up."""
    buffer._revive(twin)


def spend_all(buffers: Sequence[object]) -> None:
    """Those among them that sending spends are sent: all, or none. Raises `UnsendableError`."""
    mine = _spendable(buffers)
    spares: list[SharedBuffer] = []
    try:
        if len(mine) > 1:
            spares = [buffer._twin() for buffer in mine]
        for buffer in mine:
            buffer._spend()
    except (BufferError, ValueError, OSError) as exc:
        for buffer, twin in zip(mine, spares, strict=False):
            buffer._revive(twin)
        raise UnsendableError(f"cannot send a SharedBuffer: {exc}", type_name=_NAME) from exc


def own(buffers: Sequence[Any]) -> list[memoryview | SharedBuffer]:
    """Return what one who is sent them gets, in this isolate: copies, or the memory itself.

    Raises `UnsendableError`.
    """
    try:
        arrived = [b._twin() if isinstance(b, SharedBuffer) else memoryview(bytearray(b)) for b in buffers]
    except OSError as exc:
        raise UnsendableError(f"cannot send a SharedBuffer: {exc}", type_name=_NAME) from exc
    spend_all(buffers)
    return arrived


def adopt(fd: int, size: int) -> SharedBuffer:
    """Return the buffer of a descriptor that has arrived. Raises `ProtocolError`."""
    check_memory_file(fd, size)
    is_readonly = bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & (fcntl.F_SEAL_WRITE | _SEAL_FUTURE_WRITE))
    return SharedBuffer._make(fd, size, is_readonly=is_readonly)  # pyright: ignore[reportPrivateUsage]
