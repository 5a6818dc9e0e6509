"""`python -m redlock`: the same as the command `redlock`."""

import sys

from _redlock_command import main

if __name__ == "__main__":
    sys.exit(main())
