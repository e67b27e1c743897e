"""Recordings that were never recorded: what the pictures are tested with."""

from __future__ import annotations

import random

from attrs import evolve

from trio_isolates._events import End, Event, Life, Outcome, Span, Story


class Telling:
    """Puts a story together, in the order in which it is told; times are in milliseconds."""

    def __init__(self) -> None:
        self.lives = [Life(0, "main", None, pid=100)]
        self.events: list[Event] = []
        self.spans: list[Span] = []
        self.requests = 1

    def spawn(
        self,
        name: str,
        at: float,
        ready: float,
        parent: int = 0,
        *,
        tasks: tuple[str, ...] = (),
        replaces: int | None = None,
    ) -> int:
        number = len(self.lives)
        self.lives.append(
            Life(number, name, parent, tasks, at / 1e3, ready / 1e3, pid=100 + number, replaces=replaces)
        )
        if replaces is not None:
            self.events.append(Event("restart", at / 1e3, parent, number))
        self.events.append(Event("spawn", at / 1e3, parent, number))
        self.events.append(Event("ready", ready / 1e3, number, parent))
        return number

    def end(self, number: int, at: float, end: End = "closed", reason: str = "") -> None:
        life = self.lives[number]
        parent = 0 if life.parent is None else life.parent
        if end == "closed":
            self.events.append(Event("close", (at - 0.2) / 1e3, parent, number))
        if end == "killed":
            self.events.append(Event("kill", (at - 0.2) / 1e3, parent, number))
        self.events.append(Event("death", at / 1e3, number, parent, label=reason))
        self.lives[number] = evolve(life, ended=at / 1e3, end=end, reason=reason)

    def call(
        self,
        isolate: int,
        at: float,
        took: float,
        label: str = "square",
        outcome: str = "value",
        *,
        caller: int = 0,
        queued: float = 0.1,
        waits: tuple[tuple[float, float], ...] = (),
        answer: str = "",
    ) -> int:
        request = self.requests
        self.requests += 1
        start, end = at + queued, at + queued + took
        self.events.append(Event("request", at / 1e3, caller, isolate, start / 1e3, request, label))
        said: Outcome | None = {"value": "value", "error": "error", "cancelled": "cancelled"}.get(outcome)  # type: ignore[assignment]
        if outcome == "cancelled":
            self.events.append(Event("cancel", (end - 0.4) / 1e3, caller, isolate, request=request))
            self.events.append(Event("interrupt", (end - 0.2) / 1e3, caller, isolate, request=request))
        if said:
            back = Event("reply", end / 1e3, isolate, caller, (end + 0.08) / 1e3, request, answer or said)
            self.events.append(back)
        in_seconds = tuple((a / 1e3, b / 1e3) for a, b in waits)
        name = label.partition("(")[0]
        stop = None if outcome == "running" else end / 1e3
        self.spans.append(Span(isolate, request, name, start / 1e3, stop, outcome, in_seconds))  # type: ignore[arg-type]
        return request

    def message(
        self, source: int, target: int, at: float, label: str = "", took: float | None = 0.05
    ) -> None:
        arrived = None if took is None else (at + took) / 1e3
        self.events.append(Event("message", at / 1e3, source, target, arrived, label=label))

    def story(self, until: float) -> Story:
        events = tuple(sorted(self.events, key=lambda event: event.time))
        spans = tuple(sorted(self.spans, key=lambda span: span.start))
        return Story(tuple(self.lives), events, spans, until / 1e3)


def one_worker() -> Story:
    """Three calls of one worker, one of which raises."""
    told = Telling()
    worker = told.spawn("square", 0.4, 31.2, tasks=("main",))
    told.call(worker, 31.9, 0.2, "square(3)", answer="9")
    told.call(worker, 32.4, 0.1, "square('many')", "error", answer="TypeError: can't multiply sequence")
    told.call(worker, 33.0, 250, "square(4)", answer="16")
    told.end(worker, 284.5)
    return told.story(285)


def two_workers() -> Story:
    """Eight calls of a pool of two, one of which is cancelled."""
    told = Telling()
    pool = [told.spawn(f"pool.{i}", 0.3 + i * 0.2, 28.0 + i, tasks=("main", "crunch")) for i in (1, 2)]
    for index in range(8):
        outcome = "cancelled" if index == 5 else "error" if index == 3 else "value"
        told.call(
            pool[index % 2], 30 + index // 2 * 12 + index % 2 * 0.05, 10 + index % 3, "count_primes", outcome
        )
    for number in pool:
        told.end(number, 90 + number * 0.1)
    return told.story(92)


def death() -> Story:
    """One dies in the middle of a call and is replaced; another is killed."""
    told = Telling()
    first = told.spawn("pool.1", 0.3, 28, tasks=("main",))
    second = told.spawn("pool.2", 0.5, 29, tasks=("main",))
    told.call(first, 30, 5, "parse('a.json')")
    told.call(second, 30.2, 300, "parse('b.json')", "value")
    told.call(first, 37, 80, "parse('c.json')", "died")
    told.end(first, 117.1, "died", "SIGKILL")
    again = told.spawn("pool.1", 118.0, 150.0, tasks=("main",), replaces=first)
    told.call(again, 151, 30, "parse('d.json')")
    told.call(again, 200, 179.8, "parse('e.json')", "died")
    told.end(again, 380, "killed")
    told.end(second, 380.4, "closed")
    return told.story(381)


def ports() -> Story:
    """Messages between the program and an isolate, and from one isolate to another."""
    told = Telling()
    one = told.spawn("echo", 0.3, 25.0, tasks=("main",))
    two = told.spawn("listener", 0.5, 26.0, tasks=("main",))
    told.message(one, 0, 25.2, "SendPort")
    for index in range(5):
        told.message(0, one, 27 + index * 0.4, f"{{'id': {index}, 'text': 'hello'}}")
        told.message(one, 0, 27.2 + index * 0.4, f"(0, {index})")
    told.message(one, two, 40, "'for you'", 3)
    told.message(two, two, 44, "'to myself'", 0.5)
    told.message(two, 0, 45, "'nobody listens'", None)
    told.call(two, 50, 40, "wait_for_it", waits=((55, 70), (75, 88)))
    told.end(one, 99)
    told.end(two, 99.5)
    return told.story(100)


def busy_pool() -> Story:
    """500 calls of 4 workers, who die 20 times."""
    told, chance = Telling(), random.Random(5)
    numbers = {i: told.spawn(f"json-pool.{i}", 0.2 * i, 30 + i, tasks=("main",)) for i in range(1, 5)}
    free = dict.fromkeys(numbers, 36.0)
    deaths = set(chance.sample(range(30, 490), 20))
    for index in range(500):
        place = min(free, key=lambda i: free[i])
        at, took = free[place], chance.expovariate(1 / 12) + 0.4
        if index in deaths:
            told.call(numbers[place], at, took, "parse", "died")
            told.end(numbers[place], at + 0.1 + took, "died", "SIGKILL")
            at += took + 1
            numbers[place] = told.spawn(
                f"json-pool.{place}", at, at + 24, tasks=("main",), replaces=numbers[place]
            )
            free[place] = at + 24.5
        else:
            kind = chance.choices(["value", "error", "cancelled"], [90, 6, 4])[0]
            told.call(numbers[place], at, took, "parse", kind)
            free[place] = at + took + 0.3
    last = max(free.values()) + 1
    for number in numbers.values():
        told.end(number, last)
    return told.story(last + 1)


def family() -> Story:
    """Three levels: the program, isolates that open isolates, and theirs."""
    told = Telling()
    for i in (1, 2):
        outer = told.spawn(f"crawler.{i}", 1.0 * i, 30 + i, tasks=("main", "crawl"))
        told.call(outer, 35, 60, "crawl")
        for k in (1, 2):
            inner = told.spawn(f"fetch.{k}", 40 + k, 60 + k, parent=outer, tasks=("crawl", "fetch_all"))
            told.call(inner, 65, 5, "fetch", caller=outer)
            if i == 2 and k == 1:
                told.end(inner, 80, "died", "exit code 7")
                again = told.spawn(
                    "fetch.1", 81, 95, parent=outer, tasks=("crawl", "fetch_all"), replaces=inner
                )
                told.end(again, 99)
            else:
                told.end(inner, 98 + i * 0.1 + k * 0.01)
        if i == 1:
            told.end(outer, 100)
    log = told.spawn("log", 20, 50, tasks=("main", "write_log"))
    told.message(log, 0, 55)
    told.end(log, 101, "killed")
    return told.story(102)


def long_names() -> Story:
    """Names of 25 characters, more than there is room for side by side."""
    told = Telling()
    for i in range(1, 8):
        number = told.spawn(f"image-thumbnail-worker.{i:02}", i * 0.3, 30 + i, tasks=("main",))
        told.call(number, 40 + i, 12, "thumbnail(picture_of_a_very_long_name)")
        told.end(number, 70 + i)
    return told.story(80)


def short() -> Story:
    """One isolate, an error, and a death."""
    told = Telling()
    one = told.spawn("one", 1, 20, tasks=("main",))
    told.call(one, 30, 5, outcome="error")
    told.call(one, 40, 5, outcome="died")
    told.end(one, 45.1, "died", "SIGKILL")
    return told.story(50)


ALL = (one_worker, two_workers, death, ports, busy_pool, family, long_names)
