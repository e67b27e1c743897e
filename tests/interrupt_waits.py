"""Ways to wait for ever, each of which a cancellation ends."""

from __future__ import annotations

import asyncio
import multiprocessing
import operator
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import NoReturn

from handlers import tell

Begun = Callable[[], None]

# Each calls `begun` when nothing is left but to wait.


def spin(begun: Begun) -> NoReturn:
    begun()
    while True:
        pass


def sleep(begun: Begun) -> None:
    begun()
    time.sleep(1000)


def get_lock(begun: Begun) -> None:
    lock = threading.Lock()
    lock.acquire()
    begun()
    lock.acquire()


def get_lock_by_with(begun: Begun) -> None:
    lock = threading.Lock()
    lock.acquire()
    begun()
    with lock:
        pass


def get_rlock(begun: Begun) -> None:
    lock = threading.RLock()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    begun()
    lock.acquire()


def get_semaphore(begun: Begun) -> None:
    semaphore = threading.Semaphore(0)
    begun()
    with semaphore:
        pass


def wait_for_event(begun: Begun) -> None:
    begun()
    threading.Event().wait()


def wait_for_condition(begun: Begun) -> None:
    condition = threading.Condition()
    with condition:
        begun()
        condition.wait_for(lambda: False)


def wait_at_barrier(begun: Begun) -> None:
    begun()
    threading.Barrier(2).wait()


def get_from_queue(begun: Begun) -> None:
    begun()
    queue.Queue[int]().get()


def put_into_full_queue(begun: Begun) -> None:
    full = queue.Queue[int](1)
    full.put(1)
    begun()
    full.put(2)


def get_from_simple_queue(begun: Begun) -> None:
    begun()
    queue.SimpleQueue[int]().get()


def join_thread(begun: Begun) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        begun()
        thread.join()
    finally:
        end.set()


def wait_for_future(begun: Begun) -> None:
    begun()
    Future[int]().result()


def receive_from_socket(begun: Begun) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        begun()
        ours.recv(1)


def send_to_full_socket(begun: Begun) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        begun()
        ours.sendall(bytes(100 << 20))


def read_from_pipe(begun: Begun) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        begun()
        receiver.recv()


def poll_nothing(begun: Begun) -> None:
    begun()
    select.select([], [], [])


def run_program(begun: Begun) -> None:
    begun()
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)"], check=True)


def wait_for_child(begun: Begun) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as child:
        try:
            begun()
            child.wait()
        finally:
            child.kill()


def iterate_in_c(begun: Begun) -> None:
    begun()
    sum(map(operator.not_, iter(lambda: False, True)))


def catch_exceptions(begun: Begun) -> NoReturn:
    begun()
    while True:
        try:
            time.sleep(1000)
        except Exception:  # as careless code does
            pass


def run_asyncio(begun: Begun) -> None:
    async def main() -> None:
        begun()
        await asyncio.sleep(1000)

    asyncio.run(main())


def spin_in_task_group(begun: Begun) -> None:
    async def forever() -> NoReturn:
        begun()
        while True:
            pass

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever())

    asyncio.run(main())


WAYS: dict[str, Callable[[Begun], object]] = {
    way.__name__: way
    for way in (
        spin,
        sleep,
        get_lock,
        get_lock_by_with,
        get_rlock,
        get_semaphore,
        wait_for_event,
        wait_for_condition,
        wait_at_barrier,
        get_from_queue,
        put_into_full_queue,
        get_from_simple_queue,
        join_thread,
        wait_for_future,
        receive_from_socket,
        send_to_full_socket,
        read_from_pipe,
        poll_nothing,
        run_program,
        wait_for_child,
        iterate_in_c,
        catch_exceptions,
        run_asyncio,
        spin_in_task_group,
    )
}


def wait(way: str, fifo: Path) -> None:
    """Wait for ever in this way, after telling the test of it."""
    WAYS[way](lambda: tell(fifo, "begun"))


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
