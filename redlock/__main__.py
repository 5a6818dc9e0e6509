"""`python -m redlock`: the same as the command `redlock`."""

import sys

from redlock.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
