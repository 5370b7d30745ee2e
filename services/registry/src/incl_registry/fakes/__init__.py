"""Stand-ins for providers that cost money."""
