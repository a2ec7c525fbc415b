output "cluster_name" {
  description = "The cluster's name."
  value       = module.ray.cluster_name
}

output "cloud" {
  description = "`aws`. With `cluster_name` and `location` it tells the tasks after `SetupRayInfrastructure` where to go on."
  value       = module.ray.cloud
}

output "location" {
  description = "The region."
  value       = module.ray.location
}

output "bucket_uri" {
  description = "Where Ray keeps its data."
  value       = module.ray.bucket_uri
}

output "kubernetes_manifests" {
  description = "Karpenter's pools: `kubectl apply -f <(terraform output -json kubernetes_manifests)`, when Karpenter is there."
  value       = { apiVersion = "v1", kind = "List", items = [for item in local.manifests : jsondecode(item)] }
}

output "ray_helm_values" {
  description = "Values for the chart: `helm install ray ./helm/ray-cluster -f <(terraform output -json ray_helm_values)`."
  value       = module.ray_values.values
}
