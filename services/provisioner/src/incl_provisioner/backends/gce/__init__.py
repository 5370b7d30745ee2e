"""Machines on Compute Engine. Only `library.py` imports google-cloud-compute, and only when a cloud is opened."""
