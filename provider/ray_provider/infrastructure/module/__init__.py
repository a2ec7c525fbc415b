"""A Terraform module: where it comes from, what it declares, and what it is called with."""
