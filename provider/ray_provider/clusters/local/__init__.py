"""The local backend: a Ray head on this machine."""
