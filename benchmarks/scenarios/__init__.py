"""A file per scenario: each has a `run(bench)` that gives tables."""
