"""Worker processes from outside: ask one for a sequence, and see a crash or a hang as an outcome."""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Worker:
    """`settings` go to the process: loops, features, length, limit, late."""

    def __init__(self, settings, python=sys.executable):
        self._settings = settings
        self._python = python
        self._process = self._errors = None

    def _start(self):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [self._python, "-X", "faulthandler", "-m", "fuzz.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, cwd=ROOT, text=True,
        )  # fmt: skip
        self._say(self._settings)
        if self._listen() is None:
            raise RuntimeError(f"the worker does not start: {self._last_words()}")

    def _say(self, what):
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is seen when it does not answer

    def _listen(self):
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def ask(self, **request):
        """The worker's answer. If it dies instead, its death is the difference."""
        if self._process is None:
            self._start()
        self._say(request)
        answer = self._listen()
        if answer is None:
            answer = {"differences": self._last_words()}
        return answer

    def _last_words(self):
        status = self._process.wait()
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").splitlines()
        self.stop()
        if any(line.startswith("Timeout (") for line in text):
            how = "it hangs"
        return [f"the worker: {how}", *text[-60:]]

    def differences(self, steps):
        return self.ask(steps=steps)["differences"]

    def stop(self):
        if self._process is not None:
            self._process.stdin.close()
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._errors.close()
            self._process = None
