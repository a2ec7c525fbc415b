"""Terraform itself: the process and its supervisor, its folder, state, events and failures."""
