"""How fast the lock is, beside its peers: `make bench`."""
