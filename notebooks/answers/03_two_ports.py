# %% exercise-1 answer
def start_parser(home):
    port = ReceivePort()
    home.send_sync(port.send_port)
    for text in port:
        if text is None:
            return
        home.send_sync(json.loads(text))


# %% exercise-1 answer
async def start_parser(home):
    port = ReceivePort()
    await home.send(port.send_port)
    while (text := await port.receive()) is not None:
        await home.send(json.loads(text))


# %% exercise-1 wrong: before it has sent its address home, start_parser has raised UnsendableError
def start_parser(home):
    home.send_sync(ReceivePort())


# %% exercise-1 wrong: make a port in the isolate
def start_parser(home):
    home.send_sync(home)


# %% exercise-1 wrong: no message comes home
def start_parser(home):
    return ReceivePort().send_port


# %% exercise-1 wrong: does it send the value to `home`
def start_parser(home):
    port = ReceivePort()
    home.send_sync(port.send_port)
    for text in port:
        if text is None:
            return
        json.loads(text)


# %% exercise-1 wrong: each should be json.loads(text)
def start_parser(home):
    port = ReceivePort()
    home.send_sync(port.send_port)
    for text in port:
        if text is None:
            return
        home.send_sync(text)


# %% exercise-1 wrong: it needs a loop
def start_parser(home):
    port = ReceivePort()
    home.send_sync(port.send_port)
    home.send_sync(json.loads(port.receive_sync()))


# %% exercise-1 wrong: what does it do with None
def start_parser(home):
    port = ReceivePort()
    home.send_sync(port.send_port)
    for text in port:
        home.send_sync(json.loads(text))


# %% exercise-1 wrong: it has to return
def start_parser(home):
    port = ReceivePort()
    home.send_sync(port.send_port)
    for text in port:
        if text is not None:
            home.send_sync(json.loads(text))


# %% exercise-1 wrong: has to be your port's send port
def start_parser(home):
    for text in ("[1]", '{"a": null}', '"b"'):
        home.send_sync(json.loads(text))


# %% exercise-2 answer
@asynccontextmanager
async def open_parser():
    home = ReceivePort()
    async with open_isolate(parse_messages, home.send_port):
        questions = await home.receive()

        async def parse(text):
            await questions.send(text)
            return await home.receive()

        yield parse
        await questions.send(None)


# %% exercise-2 answer
@asynccontextmanager
async def open_parser():
    home = ReceivePort()
    async with open_isolate(parse_messages, home.send_port) as isolate:
        questions = await home.receive()

        async def parse(text):
            await questions.send(text)
            return await home.receive()

        try:
            yield parse
        finally:
            await isolate.aclose()


# %% exercise-2 wrong: no message has gone through a port
from trio_isolates import open_worker


@asynccontextmanager
async def open_parser():
    async with open_worker(json.loads) as worker:
        yield worker.call


# %% exercise-2 wrong: open_parser, or parse, has raised TypeError
@asynccontextmanager
async def open_parser():
    yield json.loads


# %% exercise-2 wrong: open_parser, or parse, has raised
async def open_parser():
    home = ReceivePort()
    async with open_isolate(parse_messages, home.send_port):
        questions = await home.receive()

        async def parse(text):
            await questions.send(text)
            return await home.receive()

        yield parse
        await questions.send(None)


# %% exercise-2 wrong: what does parse return
@asynccontextmanager
async def open_parser():
    home = ReceivePort()
    async with open_isolate(parse_messages, home.send_port):
        questions = await home.receive()

        async def parse(text):
            await questions.send(text)
            await home.receive()

        yield parse
        await questions.send(None)


# %% exercise-2 wrong: it should have ended in order
@asynccontextmanager
async def open_parser():
    home = ReceivePort()
    async with open_isolate(parse_messages, home.send_port) as isolate:
        questions = await home.receive()

        async def parse(text):
            await questions.send(text)
            return await home.receive()

        yield parse
        isolate.kill()


# %% exercise-2 wrong: what does the isolate still wait for
@asynccontextmanager
async def open_parser():
    home = ReceivePort()
    async with open_isolate(parse_messages, home.send_port):
        questions = await home.receive()

        async def parse(text):
            await questions.send(text)
            return await home.receive()

        yield parse


# %% exercise-2 wrong: open one, for the whole block
@asynccontextmanager
async def open_parser():
    async def parse(text):
        home = ReceivePort()
        async with open_isolate(parse_messages, home.send_port):
            questions = await home.receive()
            await questions.send(text)
            answer = await home.receive()
            await questions.send(None)
        return answer

    yield parse
