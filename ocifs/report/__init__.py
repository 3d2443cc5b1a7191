"""What commands show: values computed from an image first, then their rendering as text, JSON or HTML.

This package imports `image` and everything below it; it knows nothing of commands, and prints nothing.
"""
