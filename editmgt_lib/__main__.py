"""`editmgt`, also as `python -m editmgt_lib`: Ctrl-C is taken care of before anything is loaded."""

import signal
import sys

from .commands.interrupts import INTERRUPTED, leave_at_once, starting


def main() -> int:
    """Run the command line as a program; gives the exit code."""
    try:
        starting()
        from .cli import main as run

        code = run()
    except KeyboardInterrupt:  # a second one, while the first is handled
        leave_at_once()
        return INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # done: only the interpreter's own end is left
    return code


if __name__ == "__main__":
    sys.exit(main())
