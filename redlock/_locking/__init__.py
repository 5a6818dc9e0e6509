"""The life of a lease: acquire loop, wait queue, renewal, release, and the log of lock events."""
