"""The same faults for this lock and for its peers: `python -m benchmarks.survival`."""
