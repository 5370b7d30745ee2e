"""Common ground of the INCL services: contracts, bus runtime, settings, errors. It knows no service."""

__version__ = "0.1.0"
