"""What a sweep is, and what follows from what its trials say. Pure: no I/O, no clock, no bus."""
