"""Orders, which are shipped by a task or cancelled by a view, never both."""
