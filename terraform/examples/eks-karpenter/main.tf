# An EKS cluster whose workers come by Karpenter: the module makes the network, the cluster and the system pool, this root
# what Karpenter needs. Karpenter itself is installed by its chart (README.md). Written from
# https://karpenter.sh/docs/getting-started/getting-started-with-karpenter/ and its CloudFormation reference (read
# 2026-11-29), and not run on AWS.

provider "aws" {
  region = var.region
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  partition = data.aws_partition.current.partition
  account   = data.aws_caller_identity.current.account_id
  owned     = "kubernetes.io/cluster/${var.name}"

  pools = {
    cpu  = { machine_type = "m6i.2xlarge", min = 0, max = 4 }
    a10g = { machine_type = "g5.12xlarge", other_machine_types = ["g5.24xlarge"], capacity = "spot", max = 4 }
  }
}

module "ray" {
  source = "../../modules/eks"

  name                         = var.name
  endpoint_public_access       = length(var.office_cidrs) > 0
  endpoint_public_access_cidrs = var.office_cidrs
  cluster_autoscaler           = { enabled = false }

  service_accounts = {
    ray       = { namespace = "ray", name = "ray", bucket_access = "write" }
    karpenter = { namespace = "kube-system", name = "karpenter", policy_arns = { controller = aws_iam_policy.karpenter.arn } }
  }
  ray_service_account = "ray"
}

# What the machines have, and how Ray's groups ask for them. Karpenter makes the nodes.
module "workers" {
  source = "../../modules/eks/modules/node-pools"

  create       = false
  cluster_name = var.name
  subnets      = [for id in module.ray.subnet_ids : { id = id, zone = "" }]
  pools        = local.pools
}

module "ray_values" {
  source = "../../modules/shared/ray-values"

  node_pools      = merge(module.ray.node_pools, module.workers.node_pools)
  head_pool       = "system"
  gpu_image       = { tag = "2.60.0-gpu" }
  service_account = module.ray.service_accounts["ray"].name
}

# --- the nodes' role ---------------------------------------------------------------------------------------------------

data "aws_iam_policy_document" "node_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "node" {
  name_prefix        = "${substr(var.name, 0, 24)}-karp-"
  assume_role_policy = data.aws_iam_policy_document.node_trust.json
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"])

  role       = aws_iam_role.node.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.key}"
}

resource "aws_iam_instance_profile" "node" {
  name_prefix = "${substr(var.name, 0, 24)}-karp-"
  role        = aws_iam_role.node.name
}

resource "aws_eks_access_entry" "node" {
  cluster_name  = module.ray.cluster_name
  principal_arn = aws_iam_role.node.arn
  type          = "EC2_LINUX"
}

# --- Karpenter's role --------------------------------------------------------------------------------------------------

data "aws_iam_policy_document" "karpenter" {
  statement {
    sid = "Look"
    actions = [
      "ec2:DescribeAvailabilityZones", "ec2:DescribeCapacityReservations", "ec2:DescribeImages", "ec2:DescribeInstanceStatus",
      "ec2:DescribeInstanceTypeOfferings", "ec2:DescribeInstanceTypes", "ec2:DescribeInstances", "ec2:DescribeLaunchTemplates",
      "ec2:DescribePlacementGroups", "ec2:DescribeSecurityGroups", "ec2:DescribeSpotPriceHistory", "ec2:DescribeSubnets",
      "iam:GetInstanceProfile", "iam:ListInstanceProfiles", "pricing:GetProducts",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "Cluster"
    actions   = ["eks:DescribeCluster"]
    resources = ["arn:${local.partition}:eks:${var.region}:${local.account}:cluster/${var.name}"]
  }

  statement {
    sid       = "Images"
    actions   = ["ssm:GetParameter"]
    resources = ["arn:${local.partition}:ssm:${var.region}::parameter/aws/service/*"]
  }

  # From what is there ...
  statement {
    sid     = "From"
    actions = ["ec2:CreateFleet", "ec2:RunInstances"]
    resources = [
      for kind in ["capacity-reservation", "image", "security-group", "snapshot", "subnet"] :
      "arn:${local.partition}:ec2:${var.region}:*:${kind}/*"
    ]
  }

  statement {
    sid       = "FromTemplates"
    actions   = ["ec2:CreateFleet", "ec2:RunInstances"]
    resources = ["arn:${local.partition}:ec2:${var.region}:*:launch-template/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/${local.owned}"
      values   = ["owned"]
    }
  }

  # ... only what bears the cluster's name, ...
  statement {
    sid     = "Make"
    actions = ["ec2:CreateFleet", "ec2:CreateLaunchTemplate", "ec2:RunInstances", "ec2:CreateTags"]
    resources = [
      for kind in ["fleet", "instance", "launch-template", "network-interface", "spot-instances-request", "volume"] :
      "arn:${local.partition}:ec2:${var.region}:*:${kind}/*"
    ]

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/${local.owned}"
      values   = ["owned"]
    }
  }

  # ... and no other is named or ended.
  statement {
    sid       = "NameAndEnd"
    actions   = ["ec2:CreateTags", "ec2:DeleteLaunchTemplate", "ec2:TerminateInstances"]
    resources = ["arn:${local.partition}:ec2:${var.region}:*:instance/*", "arn:${local.partition}:ec2:${var.region}:*:launch-template/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/${local.owned}"
      values   = ["owned"]
    }
  }

  statement {
    sid       = "NodesRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.node.arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_policy" "karpenter" {
  name_prefix = "${var.name}-karpenter-"
  policy      = data.aws_iam_policy_document.karpenter.json
}

# --- the pools, as Karpenter reads them --------------------------------------------------------------------------------

locals {
  manifests = concat(
    [jsonencode({
      apiVersion = "karpenter.k8s.aws/v1"
      kind       = "EC2NodeClass"
      metadata   = { name = "ray" }
      spec = {
        # Its images for GPUs have NVIDIA's device plugin.
        amiSelectorTerms           = [{ alias = "bottlerocket@latest" }]
        instanceProfile            = aws_iam_instance_profile.node.name
        subnetSelectorTerms        = [for id in module.ray.subnet_ids : { id = id }]
        securityGroupSelectorTerms = [{ id = module.ray.cluster_security_group_id }]
        instanceStorePolicy        = "RAID0"
        metadataOptions            = { httpTokens = "required", httpPutResponseHopLimit = 1 }
      }
    })],
    [for name, pool in local.pools : jsonencode({
      apiVersion = "karpenter.sh/v1"
      kind       = "NodePool"
      metadata   = { name = name }
      spec = {
        limits     = { cpu = tostring(pool.max * module.workers.machine_vcpus[pool.machine_type]) }
        disruption = { consolidationPolicy = "WhenEmpty", consolidateAfter = "300s" }
        template = {
          metadata = { labels = { "ray-pool" = name } }
          spec = {
            nodeClassRef = { group = "karpenter.k8s.aws", kind = "EC2NodeClass", name = "ray" }
            taints       = module.workers.taints[name]
            requirements = [
              { key = "node.kubernetes.io/instance-type", operator = "In", values = concat([pool.machine_type], try(pool.other_machine_types, [])) },
              { key = "karpenter.sh/capacity-type", operator = "In", values = [try(pool.capacity, "on_demand") == "spot" ? "spot" : "on-demand"] },
            ]
          }
        }
      }
    })],
  )
}
