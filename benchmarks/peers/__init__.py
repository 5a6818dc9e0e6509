"""One short program per lock: what the harness talks with. See `worker` for what is said."""
