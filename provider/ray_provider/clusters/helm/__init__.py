"""Helm releases: the program, its errors, charts and values, and what is fetched for them."""
