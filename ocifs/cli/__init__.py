"""The command line: one short module for each group of commands parses options, calls other packages, and prints.

It may import every package; no package imports it.
"""
