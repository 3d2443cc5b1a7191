"""tar-split: the headers of a tar stream beside its files, from which the exact stream can be reassembled.

`entries` has the format, `stream` disassembles and reassembles streams. This package imports only the
modules below it, and knows neither layers nor the places of files.
"""
