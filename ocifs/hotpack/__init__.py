"""Hot packs: the decoded bytes that an image reads when it starts, in one file, in order of their first use.

A start reads a few megabytes out of many spans. With a pack, it decodes none of them. The package imports
`layer` and everything below it, and knows neither images nor mounts.
"""
