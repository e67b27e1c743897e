# %% exercise-1 answer
async def parse_by_ports(text):
    answers = ReceivePort()
    try:
        async with open_isolate(serve, answers.send_port, name="parser", on_exit=answers.send_port):
            questions = await answers.receive()
            await questions.send(text)
            answer = await answers.receive()
            if answer is not None:
                await questions.send(None)  # the service may end
                return answer[1]
    except IsolateDied:
        pass
    return "the isolate is gone"


# %% exercise-1 wrong: the block raises IsolateDied when it is left
async def parse_by_ports(text):
    answers = ReceivePort()
    async with open_isolate(serve, answers.send_port, name="parser", on_exit=answers.send_port):
        questions = await answers.receive()
        await questions.send(text)
        answer = await answers.receive()
        if answer is None:
            return "the isolate is gone"
        await questions.send(None)
        return answer[1]


# %% exercise-1 wrong: return its second half
async def parse_by_ports(text):
    answers = ReceivePort()
    try:
        async with open_isolate(serve, answers.send_port, name="parser", on_exit=answers.send_port):
            questions = await answers.receive()
            await questions.send(text)
            answer = await answers.receive()
            if answer is not None:
                await questions.send(None)
                return answer
    except IsolateDied:
        pass
    return "the isolate is gone"


# %% exercise-1 wrong: a deadline says that it took long
async def parse_by_ports(text):
    answers = ReceivePort()
    try:
        async with open_isolate(serve, answers.send_port, name="parser"):
            questions = await answers.receive()
            await questions.send(text)
            with trio.fail_after(0.3):
                answer = await answers.receive()
            await questions.send(None)
            return answer[1]
    except (IsolateDied, trio.TooSlowError):
        return "no answer in time"


# %% exercise-1 wrong: a deadline cannot tell long work from a death
async def parse_by_ports(text):
    answers = ReceivePort()
    try:
        async with open_isolate(serve, answers.send_port, name="parser") as isolate:
            questions = await answers.receive()
            await questions.send(text)
            with trio.move_on_after(0.2):
                answer = await answers.receive()
                await questions.send(None)
                return answer[1]
            isolate.kill()
    except IsolateDied:
        pass
    return "the isolate is gone"


# %% exercise-1 wrong: for a deadline
async def parse_by_ports(text):
    answers = ReceivePort()
    try:
        async with open_isolate(serve, answers.send_port, name="parser"):
            questions = await answers.receive()
            await questions.send(text)
            with trio.move_on_after(1):
                answer = await answers.receive()
                await questions.send(None)
                return answer[1]
    except IsolateDied:
        pass
    return "the isolate is gone"


# %% exercise-1 wrong: after the death it waits for ever
async def parse_by_ports(text):
    answers = ReceivePort()
    try:
        async with open_isolate(serve, answers.send_port, name="parser"):
            questions = await answers.receive()
            await questions.send(text)
            answer = await answers.receive()
            await questions.send(None)
            return answer[1]
    except IsolateDied:
        return "the isolate is gone"


# %% exercise-2 answer
async def book_once(worker, order):
    try:
        await worker.call(order)
    except IsolateDied as error:
        return "look into the ledger" if error.maybe_executed else "safe to repeat"
    return "booked"


# %% exercise-2 wrong: is too bold
async def book_once(worker, order):
    try:
        await worker.call(order)
    except IsolateDied:
        return "safe to repeat"
    return "booked"


# %% exercise-2 wrong: had certainly not begun
async def book_once(worker, order):
    try:
        await worker.call(order)
    except IsolateDied:
        return "look into the ledger"
    return "booked"


# %% exercise-2 wrong: catch IsolateDied
async def book_once(worker, order):
    try:
        await worker.call(order)
    except trio.BrokenResourceError:
        return "look into the ledger"
    return "booked"


# %% exercise-2 wrong: the worker was not asked
async def book_once(worker, order):
    return "booked"


# %% exercise-2 wrong: repeat nothing
async def book_once(worker, order):
    while True:
        try:
            await worker.call(order)
            return "booked"
        except IsolateDied as error:
            if error.maybe_executed:
                return "look into the ledger"
