"""The connection to a Ray dashboard: sessions, credentials, errors, bounded answers."""
