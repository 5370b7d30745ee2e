"""Where and on what an experiment runs in a cloud, as pure functions: no I/O, no clock, no bus, no client library."""
