# The same outputs as terraform/modules/eks, with the same meaning: what reads them need not know the cloud.

output "cloud" {
  description = "`gcp`."
  value       = "gcp"
}

output "cluster_name" {
  description = "The cluster's name."
  value       = google_container_cluster.this.name
}

output "cluster_endpoint" {
  description = "Address of the Kubernetes API: with `dns_endpoint` its name, else its IP address."
  value       = "https://${coalesce(local.dns_endpoint, google_container_cluster.this.endpoint)}"
}

output "cluster_ca_certificate" {
  description = "The Kubernetes API's CA certificate: PEM, base64-encoded. Null with `dns_endpoint`, whose certificate is a public one."
  value       = var.dns_endpoint ? null : try(google_container_cluster.this.master_auth[0].cluster_ca_certificate, null)
  sensitive   = true
}

output "dns_endpoint" {
  description = "The Kubernetes API's DNS name, if it is to be reached by it; else null."
  value       = local.dns_endpoint
}

output "location" {
  description = "The region or zone."
  value       = var.location
}

output "project" {
  description = "The Google Cloud project."
  value       = var.project
}

output "kubernetes_version" {
  description = "The control plane's Kubernetes version."
  value       = google_container_cluster.this.master_version
}

output "node_pools" {
  description = "Each pool: `node_selector`, `tolerations`, `accelerator` (`{resource, type, count}` or null), `allocatable` (`{cpu, memory_gib, gpus}`), `min`, `max`, `num_of_hosts`."
  value       = merge({}, module.node_pools[*].node_pools...)
}

output "ray_helm_values" {
  description = "Values for the Helm chart `helm/ray-cluster`, as they stand: a head on the system pool, a worker group for each other pool."
  value       = module.ray_values.values
}

output "service_accounts" {
  description = "Each service account with a cloud identity: `namespace`, `name`, `identity`, `annotations`."
  value       = module.service_accounts.service_accounts
}

output "bucket_uri" {
  description = "The bucket for Ray's data, as Ray and Arrow write it, or null."
  value       = local.bucket_name == null ? null : "gs://${local.bucket_name}"
}

output "nvidia_device_plugin_required" {
  description = "Whether NVIDIA's device plugin has to be installed before a pod can ask for nvidia.com/gpu. GKE brings its own."
  value       = false
}

output "ray_operator_managed" {
  description = "Whether the cloud runs a Ray operator of its own. Then KubeRay's must not be installed beside it."
  value       = var.ray_operator
}

output "deletion_protection" {
  description = "Whether destroying is refused."
  value       = var.deletion_protection
}

output "network_id" {
  description = "The network."
  value       = local.network
}

output "subnet_ids" {
  description = "The nodes' subnet, as a list."
  value       = [local.subnetwork]
}
