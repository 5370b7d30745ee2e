"""Models: versions of what experiments made, aliases, audit trails."""
