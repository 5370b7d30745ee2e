"""What the provisioner decides, as pure functions and tables: no I/O, no clock, no bus."""
