"""Annotation formats. Adding one is a module here and a line in `FORMATS`."""
