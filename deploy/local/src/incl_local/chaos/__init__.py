"""Faults on purpose, for tests and benchmarks: a platform, its victims, experiments held at every phase, and rounds."""
