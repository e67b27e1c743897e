# %% exercise-1 answer
prediction = {
    "normally": "answered",
    "by an error": "ClosedResourceError",
    "cancelled": "ClosedResourceError",
    "after kill()": "IsolateDied",
}

# %% exercise-1 wrong: so does this block for its calls
prediction = {
    "normally": "ClosedResourceError",
    "by an error": "ClosedResourceError",
    "cancelled": "ClosedResourceError",
    "after kill()": "IsolateDied",
}

# %% exercise-1 wrong: the work is stopped
prediction = {
    "normally": "answered",
    "by an error": "answered",
    "cancelled": "answered",
    "after kill()": "IsolateDied",
}

# %% exercise-1 wrong: it has no time to say anything
prediction = {
    "normally": "answered",
    "by an error": "ClosedResourceError",
    "cancelled": "ClosedResourceError",
    "after kill()": "ClosedResourceError",
}

# %% exercise-1 wrong: nobody cancels it
prediction = {
    "normally": "answered",
    "by an error": "ClosedResourceError",
    "cancelled": "Cancelled",
    "after kill()": "IsolateDied",
}

# %% exercise-1 wrong: is none of
prediction = dict.fromkeys(WAYS, "closed")

# %% exercise-1 wrong: should be a dict
prediction = ["answered", "ClosedResourceError", "ClosedResourceError", "IsolateDied"]


# %% exercise-2 answer
async def parse_or_none(worker, text, seconds):
    with trio.move_on_after(seconds):
        return await worker.call(text)
    return None


# %% exercise-2 wrong: see trio.move_on_after
async def parse_or_none(worker, text, seconds):
    with trio.fail_after(seconds):
        return await worker.call(text)


# %% exercise-2 wrong: the isolate is not the same any more
async def parse_or_none(worker, text, seconds):
    async def kill_later():
        await trio.sleep(seconds)
        worker.kill()

    result = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_later)
        try:
            result = await worker.call(text)
        except IsolateDied:
            pass
        nursery.cancel_scope.cancel()
    return result


# %% exercise-2 wrong: the isolate is not the same any more
async def parse_or_none(worker, text, seconds):
    with trio.move_on_after(seconds):
        return await worker.call(text)
    worker.kill()
    return None


# %% exercise-2 wrong: the isolate is not the same any more
async def parse_or_none(worker, text, seconds):
    with trio.move_on_after(seconds):
        return await worker.call(text)
    worker.close()
    return None


# %% exercise-2 wrong: the isolate is not the same any more
async def parse_or_none(worker, text, seconds):
    with trio.move_on_after(seconds):
        return await worker.call(text)
    os.kill(worker.pid, 9)
    return None


# %% exercise-2 wrong: swallows `Cancelled`
async def parse_or_none(worker, text, seconds):
    with trio.move_on_after(seconds):
        try:
            return await worker.call(text)
        except BaseException:
            return None


# %% exercise-2 wrong: no deadline is set
async def parse_or_none(worker, text, seconds):
    return await worker.call(text)
