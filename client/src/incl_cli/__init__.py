"""The command line: `incl …`. Nothing heavy is imported before it is needed."""
