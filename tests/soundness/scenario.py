"""What a scenario of the refleak hunt is made of: a loop that is closed in the end, and a place in the list."""

import asyncio

SCENARIOS = {}


class Settings:
    """Set from the command line."""

    loop = "aioxide"
    debug = False


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def open_loop():
    if Settings.loop == "asyncio":
        loop = asyncio.SelectorEventLoop()
    else:
        import aioxide

        loop = aioxide.new_event_loop()
    loop.set_debug(Settings.debug)
    loop.set_exception_handler(lambda loop, context: None)
    return loop


class Loop:
    """A new loop, closed in the end."""

    def __enter__(self):
        self.loop = open_loop()
        return self.loop

    def __exit__(self, *exc_info):
        if self.loop.is_closed():
            return
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def run(main, *args):
    with Loop() as loop:
        return loop.run_until_complete(main(*args))


def turn(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()
