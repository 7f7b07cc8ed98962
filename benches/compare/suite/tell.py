"""Progress and warnings. All of it goes to standard error."""

import sys
import time

STARTED = time.monotonic()


def say(text):
    seconds = int(time.monotonic() - STARTED)
    print(f"[{seconds // 60:2d}:{seconds % 60:02d}] {text}", file=sys.stderr, flush=True)


def shout(text):
    """For what must not be overlooked."""
    say(f"!!  {text}")
