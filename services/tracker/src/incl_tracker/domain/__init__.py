"""The tracker's domain: no I/O, no clock, no bus."""
