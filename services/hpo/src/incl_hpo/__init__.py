"""Hyper-parameter search. `incl_hpo.search` is its pure part: state in, suggestion out."""
