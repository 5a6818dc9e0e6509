"""One short program per lock, for the harness. The module `worker` documents the commands."""
