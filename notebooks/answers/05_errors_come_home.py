# %% exercise-1 answer
async def parse_each(worker, texts):
    results = [None] * len(texts)

    async def parse_one(place, text):
        try:
            results[place] = await worker.call(text)
        except Exception as error:
            results[place] = error

    async with trio.open_nursery() as nursery:
        for place, text in enumerate(texts):
            nursery.start_soon(parse_one, place, text)
    return results


# %% exercise-1 answer
import outcome


async def parse_each(worker, texts):
    results = {}

    async def parse_one(place, text):
        results[place] = await outcome.acapture(worker.call, text)

    async with trio.open_nursery() as nursery:
        for place, text in enumerate(texts):
            nursery.start_soon(parse_one, place, text)
    most = [results[place] for place in range(len(texts))]
    return tuple(result.value if isinstance(result, outcome.Value) else result.error for result in most)


# %% exercise-1 wrong: should return a list, not None
async def parse_each(worker, texts):
    results = [None] * len(texts)

    async def parse_one(place, text):
        try:
            results[place] = await worker.call(text)
        except Exception as error:
            results[place] = error

    async with trio.open_nursery() as nursery:
        for place, text in enumerate(texts):
            nursery.start_soon(parse_one, place, text)


# %% exercise-1 wrong: the error of the bad text is not in the list
async def parse_each(worker, texts):
    results = [None] * len(texts)

    async def parse_one(place, text):
        try:
            results[place] = await worker.call(text)
        except Exception as error:
            print(error)

    async with trio.open_nursery() as nursery:
        for place, text in enumerate(texts):
            nursery.start_soon(parse_one, place, text)
    return results


# %% exercise-1 wrong: `parse_each` has raised TypeError
async def parse_each(worker, texts):
    results = [None] * len(texts)
    async with trio.open_nursery() as nursery:
        for place, text in enumerate(texts):
            results[place] = nursery.start_soon(worker.call(text))
    return results


# %% exercise-1 wrong: catch the error before it reaches the nursery
async def parse_each(worker, texts):
    results = [None] * len(texts)

    async def parse_one(place, text):
        results[place] = await worker.call(text)

    try:
        async with trio.open_nursery() as nursery:
            for place, text in enumerate(texts):
                nursery.start_soon(parse_one, place, text)
    except* json.JSONDecodeError as group:
        results.append(group)
    return results


# %% exercise-1 wrong: not in the order of the texts
async def parse_each(worker, texts):
    results = []

    async def parse_one(text):
        try:
            results.append(await worker.call(text))
        except Exception as error:
            results.append(error)

    async with trio.open_nursery() as nursery:
        for text in texts:
            nursery.start_soon(parse_one, text)
    return results


# %% exercise-1 wrong: in the task of its text
async def parse_each(worker, texts):
    return [await worker.call(text) for text in texts]


# %% exercise-1 wrong: one after the other
async def parse_each(worker, texts):
    results = []
    for text in texts:
        try:
            results.append(await worker.call(text))
        except Exception as error:
            results.append(error)
    return results


# %% exercise-2 answer
async def respond(job):
    answer = "200 fine"
    try:
        await job()
    except* json.JSONDecodeError:
        answer = "400 bad document"
    return answer


# %% exercise-2 answer
async def respond(job):
    try:
        await job()
    except json.JSONDecodeError:
        return "400 bad document"
    except ExceptionGroup as group:
        _, rest = group.split(json.JSONDecodeError)
        if rest is not None:
            raise rest from None
        return "400 bad document"
    return "200 fine"


# %% exercise-2 wrong: the answer should be '200 fine', not None
async def respond(job):
    try:
        await job()
    except* json.JSONDecodeError:
        pass


# %% exercise-2 wrong: an isolate died, that is our fault
async def respond(job):
    try:
        await job()
    except Exception:
        return "400 bad document"
    return "200 fine"


# %% exercise-2 wrong: looks only at the
async def respond(job):
    try:
        await job()
    except json.JSONDecodeError:
        return "400 bad document"
    return "200 fine"


# %% exercise-2 wrong: an isolate died besides
async def respond(job):
    try:
        await job()
    except (json.JSONDecodeError, ExceptionGroup):
        return "400 bad document"
    return "200 fine"


# %% exercise-2 wrong: an isolate died, that is our fault
async def respond(job):
    answer = "200 fine"
    try:
        await job()
    except* Exception:
        answer = "400 bad document"
    return answer
