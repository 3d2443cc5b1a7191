"""References as users write them: paths of this machine, and short names by its registries.conf.

The configuration is read for a name that is not a path, so a command on local images does not pay for it.
"""

import os

from ocifs.sources.reference import Reference, parse_reference


def reference_of(text: str) -> Reference:
    """Parse a reference; raises as `parse_reference`, and OcifsError if a configuration file is malformed."""
    return parse_reference(text, os.path.lexists, _full_name)


def _full_name(name: str, suffix: str) -> tuple[str, bool]:
    from ocifs.sources.registry.configuration import full_name

    return full_name(name, suffix)
