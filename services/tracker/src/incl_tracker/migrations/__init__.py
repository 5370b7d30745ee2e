"""Migrations of the tracker's database."""
