locals {
  with_bucket = { for key, account in var.service_accounts : key => account if account.bucket_access != "none" }
  policies = merge([
    for key, account in var.service_accounts : { for name, arn in account.policy_arns : "${key}/${name}" => { account = key, arn = arn } }
  ]...)

  # arn:aws:iam::1234:oidc-provider/<issuer>
  issuer = var.oidc_provider_arn == null ? "" : replace(coalesce(var.oidc_provider_arn, "-"), "/^[^/]*oidc-provider//", "")
}

data "aws_iam_policy_document" "trust" {
  for_each = var.service_accounts

  dynamic "statement" {
    for_each = var.mode == "pod_identity" ? [1] : []

    content {
      actions = ["sts:AssumeRole", "sts:TagSession"]

      principals {
        type        = "Service"
        identifiers = ["pods.eks.amazonaws.com"]
      }
    }
  }

  dynamic "statement" {
    for_each = var.mode == "irsa" ? [1] : []

    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]

      principals {
        type        = "Federated"
        identifiers = [var.oidc_provider_arn]
      }

      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:sub"
        values   = ["system:serviceaccount:${each.value.namespace}:${each.value.name}"]
      }

      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:aud"
        values   = ["sts.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role" "this" {
  for_each = var.service_accounts

  name_prefix        = "${substr("${var.name}-${each.key}", 0, 36)}-"
  assume_role_policy = data.aws_iam_policy_document.trust[each.key].json
  tags               = var.tags
}

data "aws_iam_policy_document" "bucket" {
  for_each = local.with_bucket

  statement {
    sid       = "List"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [var.bucket_arn]
  }

  statement {
    sid       = "Objects"
    actions   = concat(["s3:GetObject"], each.value.bucket_access == "write" ? ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"] : [])
    resources = ["${var.bucket_arn}/*"]
  }

  dynamic "statement" {
    for_each = var.bucket_kms_key_arn == null ? [] : [1]

    content {
      sid       = "Key"
      actions   = concat(["kms:Decrypt"], each.value.bucket_access == "write" ? ["kms:GenerateDataKey"] : [])
      resources = [var.bucket_kms_key_arn]
    }
  }
}

resource "aws_iam_role_policy" "bucket" {
  for_each = local.with_bucket

  name   = "bucket"
  role   = aws_iam_role.this[each.key].id
  policy = data.aws_iam_policy_document.bucket[each.key].json
}

resource "aws_iam_role_policy" "inline" {
  for_each = { for key, account in var.service_accounts : key => account if account.policy_json != null }

  name   = "inline"
  role   = aws_iam_role.this[each.key].id
  policy = each.value.policy_json
}

resource "aws_iam_role_policy_attachment" "this" {
  for_each = local.policies

  role       = aws_iam_role.this[each.value.account].name
  policy_arn = each.value.arn
}

resource "aws_eks_pod_identity_association" "this" {
  for_each = var.mode == "pod_identity" ? var.service_accounts : {}

  cluster_name    = var.cluster_name
  namespace       = each.value.namespace
  service_account = each.value.name
  role_arn        = aws_iam_role.this[each.key].arn
  tags            = var.tags
}
