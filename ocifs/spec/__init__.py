"""OCI documents as typed, frozen values: bytes in, values out; no paths, no files, no environment."""
