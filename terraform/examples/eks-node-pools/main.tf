# GPU pools for a cluster that is there already, whoever made it.

provider "aws" {
  region = var.region
}

data "aws_eks_cluster" "this" {
  name = var.cluster_name
}

module "pools" {
  source = "../../modules/eks/modules/node-pools"

  cluster_name              = data.aws_eks_cluster.this.name
  cluster_security_group_id = data.aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
  vpc_id                    = data.aws_eks_cluster.this.vpc_config[0].vpc_id
  subnets                   = var.subnets

  pools = {
    a10g = {
      machine_type = "g5.12xlarge"
      max          = 2
    }
  }
}

module "ray_values" {
  source = "../../modules/shared/ray-values"

  node_pools = module.pools.node_pools
  gpu_image  = { tag = "2.60.0-gpu" }
}
