output "service_accounts" {
  description = "For each key: namespace, name, the cloud identity it acts as, and the annotations that the service account needs (none with Pod Identity)."
  value = {
    for key, account in var.service_accounts : key => {
      namespace   = account.namespace
      name        = account.name
      identity    = aws_iam_role.this[key].arn
      annotations = { for name in ["eks.amazonaws.com/role-arn"] : name => aws_iam_role.this[key].arn if var.mode == "irsa" }
    }
  }
}

output "bucket_keys" {
  description = "The KMS key that `bucket_access` includes, for each key of an account with access to the bucket."
  value       = { for key in keys(local.with_bucket) : key => var.bucket_kms_key_arn }
}
