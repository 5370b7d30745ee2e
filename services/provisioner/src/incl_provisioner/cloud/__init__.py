"""Machines that are made for an experiment: wanted by the scheduler, kept by a loop, let in by a token."""
