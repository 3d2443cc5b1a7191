"""A terminal's screen to look into an image; the only place that knows textual."""
