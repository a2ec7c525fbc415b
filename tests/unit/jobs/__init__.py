"""Tests of ray_provider.jobs."""
