"""Tables of providers, as data."""
