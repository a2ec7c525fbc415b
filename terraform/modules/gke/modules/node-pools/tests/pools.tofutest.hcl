# OpenTofu reads this file in the place of the .tftest.hcl beside it, whose overrides name instances by their keys: Terraform
# takes that, and OpenTofu 1.12 refuses it in every command, init too. It runs no tests here.
