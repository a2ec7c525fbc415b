# A VPC, an EKS cluster, CPU workers, and GPU workers on spot that cost nothing while nobody uses them.

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
      max          = 4
    }
    a10g = {
      machine_type        = "g5.12xlarge"
      other_machine_types = ["g5.24xlarge"]
      capacity            = "spot"
      max                 = 4
    }
  }

  service_accounts = {
    ray = {
      namespace     = "ray"
      name          = "ray"
      bucket_access = "write"
    }
  }
  ray_service_account = "ray"
}
