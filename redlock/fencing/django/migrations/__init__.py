"""The migrations of the fence."""
