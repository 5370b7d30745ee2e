"""Fakes of the registry's ports, and the contract suites that they pass as the real ones do."""
