"""Alembic migrations of the provisioner's database."""
