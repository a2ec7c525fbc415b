# What is allowed, and yet not what most people want: the plan warns.

locals {
  # When Amazon's standard support of a version ends; an hour of the control plane costs six times as much afterwards
  # (support_type EXTENDED), or the cluster is upgraded (STANDARD). As read on 2026-11-29 at
  # https://docs.aws.amazon.com/eks/latest/userguide/kubernetes-versions.html; `make release-check` asks for a newer reading when
  # this one has grown old.
  standard_support_ends = {
    "1.29" = "2025-03-23"
    "1.30" = "2025-07-23"
    "1.31" = "2025-11-26"
    "1.32" = "2026-03-23"
    "1.33" = "2026-07-29"
    "1.34" = "2026-12-02"
    "1.35" = "2027-03-27"
  }
  # Of EKS' own choice the output kubernetes_support_ends tells: a check of what is not known yet would warn each time.
  support_end = try(local.standard_support_ends[var.kubernetes_version], null)
}

check "kubernetes_support" {
  assert {
    condition     = local.support_end == null ? true : timecmp(plantimestamp(), "${local.support_end}T23:59:59Z") <= 0
    error_message = "kubernetes_version: Amazon's standard support of ${coalesce(var.kubernetes_version, "-")} ended on ${coalesce(local.support_end, "-")}. With support_type = EXTENDED the control plane costs six times as much since then, with STANDARD EKS upgrades it by itself. Take a newer version, one minor version at a time."
  }
}

check "endpoint_is_in_reach" {
  assert {
    condition     = !var.create_network || var.endpoint_public_access || var.private_endpoint_reachable
    error_message = "endpoint_public_access: the Kubernetes API will be private, in a network that nothing outside can reach. Whoever goes on from here (SetupRayCluster, helm, kubectl) can't reach it. Either set endpoint_public_access with endpoint_public_access_cidrs (the addresses that Airflow's workers come from), or create_network = false with the VPC that they are in, or, where a peering, a VPN or a transit gateway leads into the new network, private_endpoint_reachable = true."
  }
}

check "creator_is_admin_counts_once" {
  assert {
    condition     = try(aws_eks_cluster.this.access_config[0].bootstrap_cluster_creator_admin_permissions, var.creator_is_admin) == var.creator_is_admin
    error_message = "creator_is_admin counts when the cluster is made, and EKS can't change it later: it stays ${!var.creator_is_admin}. ${var.creator_is_admin ? "Give the rights by access_entries." : "To take the rights away, delete the creator's access entry: aws eks delete-access-entry --cluster-name ${var.name} --principal-arn ..."}"
  }
}
