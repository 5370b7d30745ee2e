"""Archives: the packed working directory, and directories kept as one artifact."""

DIRECTORY_ENDING = ".incl-dir.tar.zst"
"""The path of an artifact that is a whole directory (a checkpoint of several files) ends so."""
