"""OCI documents as typed, frozen values, and their small formats: digests, media types, platforms, RFC 3339 times.

This package imports only the modules below it; it knows no paths, files or environment.
"""
