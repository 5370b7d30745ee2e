"""Archives: the packed working directory, and directories kept as one artifact."""

DIRECTORY_ENDING = ".incl-dir.tar.zst"
"""The path of an artifact that is a whole directory (a checkpoint of several files) ends so."""

DOWNLOAD_MARKER = ".incl-download"
"""`incl download` writes a file of this name into a folder that it makes: such a folder is not packed."""

PLATFORM_MARKER = ".incl-platform"
"""A file of this name lies in the data folder of a platform: its keys and databases are never packed."""
