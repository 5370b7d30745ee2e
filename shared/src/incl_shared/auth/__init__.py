"""Credentials of the bus: operator, account, a scoped signing key for each role, and what is minted with them.

Light by itself (the command line imports it): `names` and `creds` need the standard library only.
"""
