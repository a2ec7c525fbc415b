# A VPC, an EKS cluster, and workers with and without GPUs that cost nothing while nobody uses them.

provider "aws" {
  region = var.region
}

module "ray" {
  source = "../../modules/eks"

  name                         = var.name
  endpoint_public_access       = length(var.office_cidrs) > 0
  endpoint_public_access_cidrs = var.office_cidrs

  node_pools = {
    cpu = {
      machine_type = "m6i.2xlarge"
      min          = 0
      max          = 4
    }
    a10g = {
      machine_type        = "g5.12xlarge"
      other_machine_types = ["g5.24xlarge"]
      capacity            = "spot"
      max                 = 4
      local_disks         = true
    }
  }
  # Of the Ray version that the chart has, or that your values name.
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
