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

# EKS delivers logs for a while after the cluster is gone, and makes the group anew for them: the next cluster of that name
# then fails with ResourceAlreadyExistsException (github.com/terraform-aws-modules/terraform-aws-eks/issues/2763, read
# 2026-11-29). So the group goes some time after the cluster. That narrows the race; AWS offers nothing that ends it.
resource "terraform_data" "log_drain" {
  count = length(var.control_plane_logs) > 0 ? 1 : 0

  input = var.log_drain_seconds

  provisioner "local-exec" {
    when    = destroy
    command = "sleep \"$SECONDS_TO_WAIT\""
    environment = {
      SECONDS_TO_WAIT = tostring(self.input)
    }
  }

  depends_on = [aws_cloudwatch_log_group.cluster]
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
    # Of the run that set it up last: written when the cluster is made, and renewed without Terraform. And who made the
    # cluster is asked once: EKS can't change that later, and a change would replace the cluster.
    ignore_changes = [
      tags["airflow-ray-run"], tags["airflow-ray-expires"], tags["airflow-ray-version"], tags["airflow-ray-used"],
      access_config[0].bootstrap_cluster_creator_admin_permissions,
    ]

    # Not at the variables: what an earlier release made under these names has to go all the same.
    precondition {
      condition     = length(var.name) <= 32
      error_message = "name has ${length(var.name)} characters, and may have 32: AWS adds to it, and has limits of its own."
    }
    precondition {
      condition     = !contains(keys(var.service_accounts), "ebs-csi")
      error_message = "service_accounts: the key ebs-csi is the module's own."
    }
    precondition {
      condition     = length(distinct(local.subnets[*].zone)) >= 2
      error_message = "EKS needs subnets in two zones or more: see availability_zones or private_subnet_ids."
    }
    precondition {
      condition     = length(local.in_refused_zones) == 0
      error_message = "${var.create_network ? "availability_zones" : "private_subnet_ids"}: EKS makes no cluster in ${join(", ", keys(local.refused_zones))}, and in this account ${join(", ", local.in_refused_zones)}. Take other zones."
    }
    precondition {
      condition     = alltrue([for zone in values(data.aws_availability_zone.given) : zone.zone_type == "availability-zone"])
      error_message = "availability_zones: ${join(", ", [for name, zone in data.aws_availability_zone.given : "${name} is a ${zone.zone_type}" if zone.zone_type != "availability-zone"])}. EKS wants availability zones of the region."
    }
  }

  depends_on = [
    aws_iam_role_policy_attachment.cluster,
    aws_iam_role_policy_attachment.auto_node,
    aws_iam_role_policy.cluster_key,
    aws_cloudwatch_log_group.cluster,
    terraform_data.log_drain,
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
  service_account_role_arn    = each.key == "aws-ebs-csi-driver" && var.identity_mode == "irsa" ? module.service_accounts.service_accounts["ebs-csi"].identity : null
  tags                        = var.tags

  # A Deployment that waits for nodes is degraded, and EKS waits for it in vain. So is a driver without its identity.
  depends_on = [module.node_pools, module.service_accounts]
}
