"""The topics of `incl admin`, one module each.

A module has SUMMARY (one line), EXAMPLES, `arguments(parser)`, and `run(args, session) -> int`, async or not; it
imports what is heavy only when it runs. Its name is the topic's, with underscores for dashes.
"""

TOPICS: tuple[str, ...] = ("stuck", "backup", "restore", "restore-bus", "rebuild", "purge-model", "dead-letters")
"""In the order in which help shows them."""
