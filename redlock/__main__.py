"""`python -m redlock`: the same as the command `redlock`."""

import sys

if __name__ == "__main__":
    try:
        from redlock.cli.main import main

        status = main()
    except KeyboardInterrupt:
        # During the import; `main` itself returns this status.
        status = 130
    sys.exit(status)
