"""A short program for each lock, for the harness. The module `worker` documents the commands."""
