"""The algorithm: commands, votes, rounds and their arithmetic. Only the standard library, no I/O, no clock."""
