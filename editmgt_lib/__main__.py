"""`python -m editmgt_lib` is `editmgt`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
