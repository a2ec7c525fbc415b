"""Kubernetes' API: how it is reached and asked, and what its pods and conditions tell."""
