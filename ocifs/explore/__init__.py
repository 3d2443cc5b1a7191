"""The terminal interface that browses an image. Only this package imports textual."""
