"""Calls that block until they may go on, for tests of executors."""

import threading

#: Of one wait for another thread, in seconds. Nothing here should come near it.
LIMIT_S = 10


def thread_name():
    return threading.current_thread().name


class Gate:
    """A call that says when it runs and returns when it may."""

    def __init__(self, result=None):
        self.entered, self.may_go = threading.Event(), threading.Event()
        self.result = result

    def __call__(self):
        self.entered.set()
        assert self.may_go.wait(LIMIT_S)
        return self.result

    def wait_until_entered(self):
        assert self.entered.wait(LIMIT_S)
