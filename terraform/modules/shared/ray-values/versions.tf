# No provider: this module only turns the description of node pools into Helm values.
terraform {
  required_version = ">= 1.9"
}
