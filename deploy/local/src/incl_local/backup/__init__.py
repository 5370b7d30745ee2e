"""Backup and restore of one machine's platform; what is in one, and why it is whole: docs/mechanisms/backup.md."""
