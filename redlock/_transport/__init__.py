"""From commands to bytes and from replies to votes: addresses, connections, and the driver for threads."""
