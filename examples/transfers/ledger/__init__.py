"""The same transfers as a Django project."""
