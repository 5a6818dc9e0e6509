"""The speed of the lock beside its peers: `make bench`."""
