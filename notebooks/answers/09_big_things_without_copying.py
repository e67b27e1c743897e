# %% exercise-1 answer
HIDE = bytes.maketrans(b"0123456789", b"##########")


def hide_digits(buffer):
    buffer.view[:] = bytes(buffer.view).translate(HIDE)
    return buffer


async def redacted(worker, text):
    buffer = SharedBuffer.from_buffer(text)
    answer = await worker.call(buffer)
    return bytes(answer.view)


# %% exercise-1 wrong: what came back is another object
async def redacted(worker, text):
    buffer = SharedBuffer.from_buffer(text)
    await worker.call(buffer)
    return bytes(buffer.view)


# %% exercise-1 wrong: the bytes of the buffer that came back
async def redacted(worker, text):
    return await worker.call(SharedBuffer.from_buffer(text))


# %% exercise-1 wrong: not hidden by the worker
HIDE = bytes.maketrans(b"0123456789", b"##########")


async def redacted(worker, text):
    return text.translate(HIDE)


# %% exercise-2 answer
async def titled(worker, buffer):
    with buffer.view[:100] as head:
        title = bytes(head).partition(b"\n")[0]
    return title, await worker.call(buffer)


# %% exercise-2 wrong: it was a copy that you have sent
async def titled(worker, buffer):
    head = buffer.view[:100]
    title = bytes(head).partition(b"\n")[0]
    return title, await worker.call(SharedBuffer.from_buffer(buffer.view))


# %% exercise-2 wrong: the whole document
async def titled(worker, buffer):
    title = bytes(buffer.view[:100]).partition(b"\n")[0]
    return title, await worker.call(SharedBuffer.from_buffer(title))


# %% exercise-2 wrong: Look at it first
async def titled(worker, buffer):
    answer = await worker.call(buffer)
    with buffer.view[:100] as head:
        title = bytes(head).partition(b"\n")[0]
    return title, answer


# %% exercise-2 wrong: it should be the first line, and
async def titled(worker, buffer):
    with buffer.view[:100] as head:
        title = bytes(head).partition(b"\n")[0]
    await worker.call(buffer)
    return title


# %% exercise-3 answer
def count_word(buffer, word):
    return bytes(buffer.view).count(word)


async def count_all(pool, buffer, words):
    shared = buffer.share()
    return [await pool.call(shared, word) for word in words]


# %% exercise-3 wrong: share it before
async def count_all(pool, buffer, words):
    return [await pool.call(buffer, word) for word in words]


# %% exercise-3 wrong: `share` was not called
async def count_all(pool, buffer, words):
    text = bytes(buffer.view)
    return [await pool.call(SharedBuffer.from_buffer(text), word) for word in words]


# %% exercise-3 wrong: share it before
async def count_all(pool, buffer, words):
    counts = {}

    async def count(word):
        counts[word] = await pool.call(buffer, word)

    async with trio.open_nursery() as nursery:
        for word in words:
            nursery.start_soon(count, word)
    return [counts[word] for word in words]


# %% exercise-3 wrong: the words were counted here
async def count_all(pool, buffer, words):
    shared = buffer.share()
    return [count_word(shared, word) for word in words]


# %% exercise-3 wrong: a list of three numbers
async def count_all(pool, buffer, words):
    shared = buffer.share()
    return await pool.call(shared, words[0])
