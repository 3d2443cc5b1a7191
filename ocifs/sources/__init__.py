"""Where images come from: references, the sources they name, and images resolved from a source."""
