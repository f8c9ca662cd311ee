"""Run several commands at once, each a quoted argument: one per core is quicker than one after the other.

    python tools/side_by_side.py "python -m pytest -q tests/unit" "python -m pytest -q tests/integration"

The first is seen as it goes, the others when they have ended. Exit status: the first that is not 0. Ctrl-C ends all.
(A shell's `&` would not do: it has its children ignore SIGINT, which tests send.)
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import sys
import tempfile


def main(commands: list[str]) -> int:
    if not commands or commands[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if commands else 2
    with contextlib.ExitStack() as stack:
        started = []
        for n, command in enumerate(commands):
            output = None if n == 0 else stack.enter_context(tempfile.TemporaryFile())
            # Each in a session of its own: tests signal their process group.
            process = subprocess.Popen(shlex.split(command), stdout=output, stderr=output, start_new_session=True)
            started.append((command, output, process))
        try:
            statuses = [process.wait() for _, _, process in started]
        except KeyboardInterrupt:
            for _, _, process in started:
                process.kill()
            return 130
        for (command, output, _), status in zip(started, statuses):
            if output is not None:
                print(f"-- {command}", flush=True)
                output.seek(0)
                shutil.copyfileobj(output, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            if status:
                print(f"-- {command}: exit status {status}", flush=True)
        return next((status if status > 0 else 1 for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
