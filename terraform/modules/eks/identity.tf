locals {
  access_policies = {
    cluster_admin = "AmazonEKSClusterAdminPolicy"
    admin         = "AmazonEKSAdminPolicy"
    edit          = "AmazonEKSEditPolicy"
    view          = "AmazonEKSViewPolicy"
  }

  # The driver makes volumes in AWS: without a role its pods fail, and claims stay pending. Auto Mode has its own.
  ebs_csi = contains(keys(var.addons), "aws-ebs-csi-driver") && !var.auto_mode ? {
    ebs-csi = {
      namespace     = "kube-system"
      name          = "ebs-csi-controller-sa"
      bucket_access = "none"
      policy_arns   = { driver = "arn:${local.partition}:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy" }
      policy_json   = null
    }
  } : {}

  # Auto Mode scales by itself.
  autoscaler = var.cluster_autoscaler.enabled && !var.auto_mode ? {
    cluster-autoscaler = {
      namespace     = var.cluster_autoscaler.namespace
      name          = var.cluster_autoscaler.service_account
      bucket_access = "none"
      policy_arns   = {}
      policy_json   = data.aws_iam_policy_document.autoscaler.json
    }
  } : {}
}

resource "aws_eks_access_entry" "this" {
  for_each = var.access_entries

  cluster_name      = aws_eks_cluster.this.name
  principal_arn     = each.value.principal_arn
  kubernetes_groups = each.value.kubernetes_groups
  tags              = var.tags
}

resource "aws_eks_access_policy_association" "this" {
  for_each = { for key, entry in var.access_entries : key => entry if entry.policy != null }

  cluster_name  = aws_eks_cluster.this.name
  principal_arn = aws_eks_access_entry.this[each.key].principal_arn
  policy_arn    = "arn:${local.partition}:eks::aws:cluster-access-policy/${local.access_policies[each.value.policy]}"

  access_scope {
    type       = length(each.value.namespaces) > 0 ? "namespace" : "cluster"
    namespaces = each.value.namespaces
  }
}

resource "aws_iam_openid_connect_provider" "this" {
  count = var.identity_mode == "irsa" ? 1 : 0

  url            = aws_eks_cluster.this.identity[0].oidc[0].issuer
  client_id_list = ["sts.amazonaws.com"]
  tags           = var.tags
}

data "aws_iam_policy_document" "autoscaler" {
  statement {
    sid = "Look"
    actions = [
      "autoscaling:DescribeAutoScalingGroups",
      "autoscaling:DescribeAutoScalingInstances",
      "autoscaling:DescribeLaunchConfigurations",
      "autoscaling:DescribeScalingActivities",
      "autoscaling:DescribeTags",
      "ec2:DescribeImages",
      "ec2:DescribeInstanceTypes",
      "ec2:DescribeLaunchTemplateVersions",
      "ec2:GetInstanceTypesFromInstanceRequirements",
    ]
    resources = ["*"]
  }

  # Labels and taints of a pool without nodes come from here.
  statement {
    sid       = "LookAtPools"
    actions   = ["eks:DescribeNodegroup"]
    resources = ["arn:${local.partition}:eks:${local.region}:${local.account}:nodegroup/${var.name}/*"]
  }

  statement {
    sid       = "Scale"
    actions   = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
    resources = ["*"]

    # EKS puts this tag on the groups of its node groups.
    condition {
      test     = "StringEquals"
      variable = "autoscaling:ResourceTag/k8s.io/cluster-autoscaler/${var.name}"
      values   = ["owned"]
    }
  }
}

module "service_accounts" {
  source = "./modules/service-accounts"

  name               = var.name
  cluster_name       = aws_eks_cluster.this.name
  mode               = var.identity_mode
  oidc_provider_arn  = one(aws_iam_openid_connect_provider.this[*].arn)
  bucket_arn         = local.bucket_arn
  bucket_kms_key_arn = { create = local.kms_key_arn, existing = var.bucket_kms_key_arn, none = null }[var.bucket_mode]
  tags               = var.tags

  service_accounts = merge(
    { for key, account in var.service_accounts : key => merge(account, { policy_json = null }) },
    local.autoscaler,
    local.ebs_csi,
  )
}
