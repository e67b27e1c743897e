# %% exercise-1 answer
async def ask(pool, path):
    return await pool.parse_file(path, select="sum(cents)", retries=5)


# %% exercise-1 wrong: no answer after 2 deaths
async def ask(pool, path):
    try:
        return await pool.parse_file(path, select="sum(cents)")
    except IsolateDied:
        return await pool.parse_file(path, select="sum(cents)")


# %% exercise-1 wrong: is tried for ever
async def ask(pool, path):
    while True:
        try:
            return await pool.parse_file(path, select="sum(cents)")
        except IsolateDied:
            continue


# %% exercise-1 wrong: and no total
async def ask(pool, path):
    try:
        return await pool.parse_file(path, select="sum(cents)")
    except IsolateDied:
        return 0


# %% exercise-1 wrong: no answer after 5 deaths
async def ask(pool, path):
    return await pool.parse_file(path, select="sum(cents)", retries=2)


# %% exercise-1 wrong: is tried for ever
async def ask(pool, path):
    answer = None
    while answer is None:
        try:
            answer = await pool.parse_file(path, select="sum(cents)")
        except Exception:
            pass
    return answer


# %% exercise-1 wrong: the pool was not asked
async def ask(pool, path):
    return None


# %% exercise-1 wrong: and no total
async def ask(pool, path):
    return await pool.parse_file(path, retries=5)


# %% exercise-2 answer
def work(path, ledger):
    document = read_document(path)
    return f"{document['number']} {sum(document['cents'])}\n"


async def enter_one(pool, path, ledger):
    entry = await pool.call(path, ledger, retries=5)
    async with await trio.Path(ledger).open("a") as file:
        await file.write(entry)


# %% exercise-2 wrong: Nobody can tell without a retry
def work(path, ledger):
    document = read_document(path)
    with open(ledger, "a") as file:
        file.write(f"{document['number']} {sum(document['cents'])}\n")


async def enter_one(pool, path, ledger):
    await pool.call(path, ledger)


# %% exercise-2 wrong: entered more than once
def work(path, ledger):
    document = read_document(path)
    with open(ledger, "a") as file:
        file.write(f"{document['number']} {sum(document['cents'])}\n")
    return True


async def enter_one(pool, path, ledger):
    assert await pool.call(path, ledger, retries=5)


# %% exercise-2 wrong: not in the ledger
def work(path, ledger):
    document = read_document(path)
    return f"{document['number']} {sum(document['cents'])}\n"


async def enter_one(pool, path, ledger):
    await pool.call(path, ledger, retries=5)


# %% exercise-2 wrong: it raises FileNotFoundError
def work(path, ledger):
    document = read_document(path)
    entry = f"{document['number']} {sum(document['cents'])}\n"
    if entry not in ledger.read_text():
        with open(ledger, "a") as file:
            file.write(entry)


async def enter_one(pool, path, ledger):
    await pool.call(path, ledger, retries=5)


# %% exercise-2 wrong: is it asked again
def work(path, ledger):
    document = read_document(path)
    with open(ledger, "a") as file:
        file.write(f"{document['number']} {sum(document['cents'])}\n")


async def enter_one(pool, path, ledger):
    try:
        await pool.call(path, ledger)
    except IsolateDied:
        pass  # it was just about to say that it is done
