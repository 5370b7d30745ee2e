"""Thumbnails of images and tables, made by whoever uploads them, in a process of its own that may crash or hang."""
