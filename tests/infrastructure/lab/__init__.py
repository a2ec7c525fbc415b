"""Clouds without a cloud: an emulated AWS, and provider plugins made from published schemas."""
