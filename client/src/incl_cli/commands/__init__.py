"""One module a command: EXAMPLES, arguments(parser), run(args, session)."""
