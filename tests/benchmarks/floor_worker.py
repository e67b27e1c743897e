"""The other side of the floors: a plain blocking process that answers on one inherited socket.

As a script: `python floor_worker.py KIND FD`.
"""

from __future__ import annotations

import pickle
import socket
import struct
import sys

# A larger recv is slower: CPython allocates it whole, and beyond 128 KiB malloc maps fresh pages for each.
RECV = 65536
LENGTH = struct.Struct("<I")


def serve_calls(sock: socket.socket) -> None:
    """Answer one pickle with one pickle; they are small, so that one recv is one message."""
    dumps, loads, recv, send = pickle.dumps, pickle.loads, sock.recv, sock.send
    while data := recv(RECV):
        send(dumps(loads(data), -1))


def serve_frames(sock: socket.socket) -> None:
    """Answer frames (length, pickle), all that came with one recv by one send."""
    rest = b""
    while data := sock.recv(RECV):
        values, rest = take_frames(rest + data)
        sock.sendall(make_frames(values))


def serve_bytes(sock: socket.socket) -> None:
    """Send back blocks (8 bytes of length, the bytes), received into memory that is reused."""
    room = bytearray()
    while head := sock.recv(8, socket.MSG_WAITALL):
        size = int.from_bytes(head, "little")
        if len(room) < size:
            room = bytearray(size)
        view = memoryview(room)[:size]
        got = 0
        while got < size:
            got += sock.recv_into(view[got:])
        sock.sendall(head)
        sock.sendall(view)


def make_frames(values: list[int]) -> bytes:
    pack, dumps = LENGTH.pack, pickle.dumps
    parts = []
    for value in values:
        data = dumps(value, -1)
        parts.append(pack(len(data)))
        parts.append(data)
    return b"".join(parts)


def take_frames(data: bytes) -> tuple[list[int], bytes]:
    unpack_from, loads = LENGTH.unpack_from, pickle.loads
    values, at, size = [], 0, len(data)
    while at + 4 <= size:
        end = at + 4 + unpack_from(data, at)[0]
        if end > size:
            break
        values.append(loads(data[at + 4 : end]))
        at = end
    return values, data[at:]


if __name__ == "__main__":
    serve = {"calls": serve_calls, "frames": serve_frames, "bytes": serve_bytes}[sys.argv[1]]
    with socket.socket(fileno=int(sys.argv[2])) as far_end:
        serve(far_end)
