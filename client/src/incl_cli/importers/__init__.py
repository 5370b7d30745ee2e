"""Old runs of other tools, read and written as the run directories that `incl.init()` makes (ADR 5)."""
