# %% exercise-1 answer
class Desk:
    """Where customers ask. It knows who waits for which number."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}  # number -> (event, a list for the answer)
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        await self.questions.send((number, text))
        await event.wait()
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting.pop(number)
            box.append(answer)
            event.set()


# %% exercise-1 answer
class Desk:
    """A channel for each row."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count(1)

    async def ask(self, text):
        number = next(self.numbers)
        self.waiting[number], answer = trio.open_memory_channel(1)
        await self.questions.send((number, text))
        return await answer.receive()

    async def hand_out(self):
        while True:
            number, answer = await self.answers.receive()
            self.waiting.pop(number).send_nowait(answer)


# %% exercise-1 answer
class Desk:
    """It looks again and again."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        self.waiting[number] = None
        await self.questions.send((number, text))
        while self.waiting[number] is None:
            await trio.sleep(0)
        return self.waiting.pop(number)

    async def hand_out(self):
        async for number, answer in self.answers:
            self.waiting[number] = answer


# %% exercise-1 wrong: `ask` should return the answer
class Desk:
    """Nothing is returned."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, _ = self.waiting[number] = trio.Event(), []
        await self.questions.send((number, text))
        await event.wait()

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting.pop(number)
            box.append(answer)
            event.set()


# %% exercise-1 wrong: has each question its row
class Desk:
    """No row."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = trio.Event(), []
        await self.questions.send((number, text))
        await event.wait()
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting.pop(number)
            box.append(answer)
            event.set()


# %% exercise-1 wrong: two questions have the same number
class Desk:
    """The same number each time."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = 0
        event, box = self.waiting[number] = trio.Event(), []
        await self.questions.send((number, text))
        await event.wait()
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting.pop(number)
            box.append(answer)
            event.set()


# %% exercise-1 wrong: a question should be (number, text)
class Desk:
    """The number stays at home."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        await self.questions.send(text)
        await event.wait()
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting.pop(number)
            box.append(answer)
            event.set()


# %% exercise-1 wrong: the number comes first
class Desk:
    """The other way round."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        await self.questions.send((text, number))
        await event.wait()
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting.pop(number)
            box.append(answer)
            event.set()


# %% exercise-1 wrong: does `hand_out` set the event
class Desk:
    """Nobody is woken."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        await self.questions.send((number, text))
        await event.wait()
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            _, box = self.waiting.pop(number)
            box.append(answer)


# %% exercise-1 wrong: is the row in `waiting` before the question goes out
class Desk:
    """The row comes after the question."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        await self.questions.send((number, text))
        event, box = self.waiting[number] = trio.Event(), []
        await event.wait()
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting.pop(number)
            box.append(answer)
            event.set()


# %% exercise-1 wrong: keeps the loop busy
class Desk:
    """It waits, and lets nobody else have a turn."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        self.waiting[number] = None
        await self.questions.send((number, text))
        while self.waiting[number] is None:
            pass
        return self.waiting.pop(number)

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting.pop(number)
            box.append(answer)
            event.set()


# %% exercise-1 wrong: only 1 of 3 questions went out
class Desk:
    """One customer at a time: nothing is swapped, and nothing is done side by side."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()
        self.lock = trio.Lock()

    async def ask(self, text):
        async with self.lock:
            await self.questions.send((next(self.numbers), text))
            _, answer = await self.answers.receive()
            return answer

    async def hand_out(self):
        await trio.lowlevel.checkpoint()


# %% exercise-1 wrong: are still swapped
class Desk:
    """The oldest row gets the next answer."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        await self.questions.send((number, text))
        await event.wait()
        return box[0]

    async def hand_out(self):
        async for _, answer in self.answers:
            event, box = self.waiting.pop(min(self.waiting))
            box.append(answer)
            event.set()


# %% exercise-1 wrong: rows are left in `waiting`
class Desk:
    """Right, but for the rows."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        await self.questions.send((number, text))
        await event.wait()
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting[number]
            box.append(answer)
            event.set()


# %% exercise-2 answer
class PatientDesk:
    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}  # number -> (event, a list for the answer)
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        try:
            await self.questions.send((number, text))
            await event.wait()
            return box[0]
        finally:
            del self.waiting[number]

    async def hand_out(self):
        async for number, answer in self.answers:
            if number in self.waiting:
                event, box = self.waiting[number]
                box.append(answer)
                event.set()


# %% exercise-2 answer
class PatientDesk:
    """It counts from one, and the row is taken out by whoever comes first."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count(1)

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        try:
            await self.questions.send((number, text))
            await event.wait()
        finally:
            self.waiting.pop(number, None)
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting.pop(number, (trio.Event(), []))
            box.append(answer)
            event.set()


# %% exercise-2 answer
class PatientDesk:
    """A cancellation is looked at, and goes on."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        try:
            await self.questions.send((number, text))
            await event.wait()
        except trio.Cancelled:
            del self.waiting[number]
            raise
        del self.waiting[number]
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            if number in self.waiting:
                event, box = self.waiting[number]
                box.append(answer)
                event.set()


# %% exercise-2 wrong: Ann is cancelled, and `ask` has returned 'for Ann'
class PatientDesk:
    """Nobody leaves: a shield."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        with trio.CancelScope(shield=True):
            await self.questions.send((number, text))
            await event.wait()
        del self.waiting[number]
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting[number]
            box.append(answer)
            event.set()


# %% exercise-2 wrong: let the cancellation through
class PatientDesk:
    """Sorry is no answer."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        try:
            await self.questions.send((number, text))
            await event.wait()
            return box[0]
        except trio.Cancelled:
            return "sorry"
        finally:
            del self.waiting[number]

    async def hand_out(self):
        async for number, answer in self.answers:
            if number in self.waiting:
                event, box = self.waiting[number]
                box.append(answer)
                event.set()


# %% exercise-2 wrong: let the cancellation through
class PatientDesk:
    """All is caught, and forgotten."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        try:
            await self.questions.send((number, text))
            await event.wait()
        except BaseException:
            pass
        del self.waiting[number]
        return box[0] if box else None

    async def hand_out(self):
        async for number, answer in self.answers:
            if number in self.waiting:
                event, box = self.waiting[number]
                box.append(answer)
                event.set()


# %% exercise-2 wrong: in `return box[0]`: let the cancellation through
class PatientDesk:
    """All is caught, and it goes on as if there were an answer."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        try:
            await self.questions.send((number, text))
            await event.wait()
        except BaseException:
            pass
        del self.waiting[number]
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            if number in self.waiting:
                event, box = self.waiting[number]
                box.append(answer)
                event.set()


# %% exercise-2 wrong: has to begin before `send`
class PatientDesk:
    """Who leaves while she sends is forgotten."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        await self.questions.send((number, text))
        try:
            await event.wait()
            return box[0]
        finally:
            del self.waiting[number]

    async def hand_out(self):
        async for number, answer in self.answers:
            if number in self.waiting:
                event, box = self.waiting[number]
                box.append(answer)
                event.set()


# %% exercise-2 wrong: is the row in `waiting` before the question goes out
class PatientDesk:
    """The row comes after the question."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        await self.questions.send((number, text))
        event, box = self.waiting[number] = trio.Event(), []
        try:
            await event.wait()
            return box[0]
        finally:
            del self.waiting[number]

    async def hand_out(self):
        async for number, answer in self.answers:
            if number in self.waiting:
                event, box = self.waiting[number]
                box.append(answer)
                event.set()


# %% exercise-2 wrong: has ended `hand_out`, and the desk with it: it returned
class PatientDesk:
    """The first late answer ends it quietly."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        try:
            await self.questions.send((number, text))
            await event.wait()
            return box[0]
        finally:
            del self.waiting[number]

    async def hand_out(self):
        try:
            async for number, answer in self.answers:
                event, box = self.waiting[number]
                box.append(answer)
                event.set()
        except KeyError:
            print("nobody waits for this")


# %% exercise-2 wrong: has ended `hand_out`
class PatientDesk:
    """The row goes, and the late answer falls over it."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        try:
            await self.questions.send((number, text))
            await event.wait()
            return box[0]
        finally:
            del self.waiting[number]

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting[number]
            box.append(answer)
            event.set()


# %% exercise-2 wrong: `waiting` has 2 rows
class PatientDesk:
    """Errors are caught; a cancellation is none."""

    def __init__(self, questions, answers):
        self.questions = questions
        self.answers = answers
        self.waiting = {}
        self.numbers = itertools.count()

    async def ask(self, text):
        number = next(self.numbers)
        event, box = self.waiting[number] = trio.Event(), []
        try:
            await self.questions.send((number, text))
            await event.wait()
        except Exception:
            del self.waiting[number]
            raise
        del self.waiting[number]
        return box[0]

    async def hand_out(self):
        async for number, answer in self.answers:
            event, box = self.waiting.get(number, (trio.Event(), []))
            box.append(answer)
            event.set()
