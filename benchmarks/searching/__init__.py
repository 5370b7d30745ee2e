"""The search benchmark: problems, optimisers, virtual workers, scores. All of it runs in the peers' environment."""
