# One TPU slice of four hosts (16 chips), started when there is capacity, for three days at most. A slice lies in one zone.

provider "google" {
  project = var.project
}

module "ray" {
  source = "../../modules/gke"

  name     = var.name
  project  = var.project
  location = var.location

  # Where Airflow, or you, come from: by the cluster's DNS name, which IAM guards, or from these networks.
  dns_endpoint                 = var.dns_endpoint
  endpoint_public_access       = length(var.office_cidrs) > 0
  endpoint_public_access_cidrs = var.office_cidrs

  node_pools = {
    v6e = {
      machine_type     = "ct6e-standard-4t"
      tpu_topology     = "4x4"
      capacity         = "flex_start"
      max_run_duration = "259200s"
      zones            = [var.zone]
    }
  }
}
