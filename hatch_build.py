"""Build hook: generates the man pages for the wheel, which installs them in share/man/man1."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManPages(BuildHookInterface):
    """Writes the pages below the build directory."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the pages to the shared data of the wheel; an editable installation has none."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from ocifs.cli.man import write_pages

        pages = write_pages(Path(self.directory) / "man1")
        build_data["shared_data"] |= {str(page): f"share/man/man1/{page.name}" for page in pages}
