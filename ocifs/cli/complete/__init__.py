"""Answers to the shells' completion requests, without the code of the commands.

The scripts for bash, zsh and fish in this package call `ocifs __complete`. An answer takes 150 ms at most, so nothing
here imports click, and no request indexes an image, uses the network or writes: it reads what is at hand. A request
that cannot be answered has no output, and the shell completes names of files.
"""
