"""tar-split: the headers of a tar stream beside its files, from which the exact stream can be made again.

`entries` has the format, `assembly` makes the stream. The package knows neither layers nor where files are.
"""
