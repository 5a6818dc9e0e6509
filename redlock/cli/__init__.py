"""The command `redlock`: one module per command."""
