data "aws_iam_policy_document" "cluster_trust" {
  statement {
    actions = var.auto_mode ? ["sts:AssumeRole", "sts:TagSession"] : ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "cluster" {
  name_prefix        = "${var.name}-eks-"
  assume_role_policy = data.aws_iam_policy_document.cluster_trust.json
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "cluster" {
  for_each = toset(concat(
    ["AmazonEKSClusterPolicy"],
    var.auto_mode ? ["AmazonEKSBlockStoragePolicy", "AmazonEKSComputePolicy", "AmazonEKSLoadBalancingPolicy", "AmazonEKSNetworkingPolicy"] : [],
  ))

  role       = aws_iam_role.cluster.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.key}"
}

data "aws_iam_policy_document" "cluster_key" {
  statement {
    actions   = ["kms:Encrypt", "kms:Decrypt", "kms:ListGrants", "kms:DescribeKey", "kms:CreateGrant"]
    resources = [local.kms_key_arn]
  }
}

resource "aws_iam_role_policy" "cluster_key" {
  name   = "secrets-encryption"
  role   = aws_iam_role.cluster.id
  policy = data.aws_iam_policy_document.cluster_key.json
}

data "aws_iam_policy_document" "auto_node_trust" {
  count = var.auto_mode ? 1 : 0

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "auto_node" {
  count = var.auto_mode ? 1 : 0

  name_prefix        = "${substr(var.name, 0, 26)}-auto-"
  assume_role_policy = data.aws_iam_policy_document.auto_node_trust[0].json
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "auto_node" {
  for_each = toset(var.auto_mode ? ["AmazonEKSWorkerNodeMinimalPolicy", "AmazonEC2ContainerRegistryPullOnly"] : [])

  role       = aws_iam_role.auto_node[0].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.key}"
}

# EKS would make this group itself, unencrypted and kept for ever.
resource "aws_cloudwatch_log_group" "cluster" {
  count = length(var.control_plane_logs) > 0 ? 1 : 0

  name              = "/aws/eks/${var.name}/cluster"
  retention_in_days = var.log_retention_days
  kms_key_id        = local.kms_key_arn
  tags              = var.tags
}

resource "aws_eks_cluster" "this" {
  name                          = var.name
  version                       = var.kubernetes_version
  role_arn                      = aws_iam_role.cluster.arn
  enabled_cluster_log_types     = var.control_plane_logs
  bootstrap_self_managed_addons = false
  tags                          = merge(var.tags, var.cluster_tags)

  access_config {
    authentication_mode                         = "API"
    bootstrap_cluster_creator_admin_permissions = var.creator_is_admin
  }

  vpc_config {
    subnet_ids              = local.subnets[*].id
    endpoint_private_access = true
    endpoint_public_access  = var.endpoint_public_access
    public_access_cidrs     = var.endpoint_public_access ? var.endpoint_public_access_cidrs : null
  }

  encryption_config {
    resources = ["secrets"]

    provider {
      key_arn = local.kms_key_arn
    }
  }

  upgrade_policy {
    support_type = var.support_type
  }

  dynamic "compute_config" {
    for_each = var.auto_mode ? [1] : []

    content {
      enabled       = true
      node_pools    = ["general-purpose", "system"]
      node_role_arn = aws_iam_role.auto_node[0].arn
    }
  }

  dynamic "kubernetes_network_config" {
    for_each = var.auto_mode ? [1] : []

    content {
      elastic_load_balancing {
        enabled = true
      }
    }
  }

  dynamic "storage_config" {
    for_each = var.auto_mode ? [1] : []

    content {
      block_storage {
        enabled = true
      }
    }
  }

  lifecycle {
    # Of the run that set it up last: written when the cluster is made, and renewed without Terraform.
    ignore_changes = [tags["airflow-ray-run"], tags["airflow-ray-expires"], tags["airflow-ray-version"], tags["airflow-ray-used"]]

    precondition {
      condition     = length(distinct(local.subnets[*].zone)) >= 2
      error_message = "EKS needs subnets in two zones or more: see availability_zones or private_subnet_ids."
    }
  }

  depends_on = [
    aws_iam_role_policy_attachment.cluster,
    aws_iam_role_policy_attachment.auto_node,
    aws_iam_role_policy.cluster_key,
    aws_cloudwatch_log_group.cluster,
  ]
}

resource "aws_eks_addon" "early" {
  for_each = var.auto_mode ? {} : { for name, addon in var.addons : name => addon if addon.before_nodes }

  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  addon_version               = each.value.version
  configuration_values        = each.value.configuration
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"
  tags                        = var.tags
}

resource "aws_eks_addon" "later" {
  for_each = var.auto_mode ? {} : { for name, addon in var.addons : name => addon if !addon.before_nodes }

  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  addon_version               = each.value.version
  configuration_values        = each.value.configuration
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"
  tags                        = var.tags

  # A Deployment that waits for nodes is degraded, and EKS waits for it in vain.
  depends_on = [module.node_pools]
}
