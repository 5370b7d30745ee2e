"""Run in a process of its own (support.serve), in the peers' environment where it imports a peer: never imported here.

Only the standard library and the peer are there. Public functions are called by name with JSON arguments.
"""
