# %% exercise-1 answer
async def count_all(paths):
    counts = [None] * len(paths)

    async def count(place, path):
        counts[place] = await run(count_users, path)

    async with trio.open_nursery() as nursery:
        for place, path in enumerate(paths):
            nursery.start_soon(count, place, path)
    return counts


# %% exercise-1 answer
from trio_isolates import open_pool


async def count_all(paths):
    async with open_pool(count_users, workers=len(paths)) as pool:
        return tuple(await pool.map(paths, chunksize=1))


# %% exercise-1 wrong: counted in this process
async def count_all(paths):
    return [await trio.to_thread.run_sync(count_users, path) for path in paths]


# %% exercise-1 wrong: nobody awaits them
async def count_all(paths):
    return [run(count_users, path) for path in paths]


# %% exercise-1 wrong: it has to return a list of numbers
async def count_all(paths):
    async with trio.open_nursery() as nursery:
        for path in paths:
            nursery.start_soon(run, count_users, path)


# %% exercise-1 wrong: keep what each `run` returns
async def count_all(paths):
    async with trio.open_nursery() as nursery:
        return [nursery.start_soon(run, count_users, path) for path in paths]


# %% exercise-1 wrong: which nobody can await
def count_all(paths):
    return [count_users(path) for path in paths]


# %% exercise-1 wrong: one after the other
async def count_all(paths):
    return [await run(count_users, path) for path in paths]


# %% exercise-1 wrong: the number of isolates was 1
async def count_all(paths):
    return await run(lambda: [count_users(path) for path in paths])


# %% exercise-1 wrong: is not in the order of the paths
async def count_all(paths):
    counts = []

    async def count(path):
        counts.append(await run(count_users, path))

    async with trio.open_nursery() as nursery:
        for path in paths:
            nursery.start_soon(count, path)
    return sorted(counts)


# %% exercise-2 answer
async def answer_within(seconds, function, *args):
    with trio.move_on_after(seconds):
        return await run(function, *args)
    return None


# %% exercise-2 answer
async def answer_within(seconds, function, *args):
    try:
        with trio.fail_after(seconds):
            return await run(function, *args)
    except trio.TooSlowError:
        return None


# %% exercise-2 wrong: when the time is up it has to return None
async def answer_within(seconds, function, *args):
    with trio.fail_after(seconds):
        return await run(function, *args)


# %% exercise-2 wrong: there was time enough for an answer
async def answer_within(seconds, function, *args):
    answer = None
    with trio.move_on_after(seconds):
        answer = await run(function, *args)
        raise ValueError("it was in time")
    return answer


# %% exercise-2 wrong: no isolate was started
async def answer_within(seconds, function, *args):
    await trio.sleep(seconds)


# %% exercise-2 wrong: an answer in time has to be returned
async def answer_within(seconds, function, *args):
    with trio.move_on_after(seconds):
        await run(function, *args)
