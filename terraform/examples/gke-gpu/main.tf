# A network, a GKE cluster, CPU workers, and GPU workers on spot that cost nothing while nobody uses them.

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
    cpu = {
      machine_type = "n2-standard-8"
      min          = 0
      max          = 4
    }
    l4 = {
      machine_type = "g2-standard-48"
      capacity     = "spot"
      max          = 4
    }
  }

  # The chart's image with CUDA, of the same Ray. `values` that name another Ray have to name its GPU image, too.
  gpu_image = { tag = "2.60.0-gpu" }

  service_accounts = {
    ray = {
      namespace     = "ray"
      name          = "ray"
      bucket_access = "write"
    }
  }
  ray_service_account = "ray"
}
