output "ray_helm_values" {
  description = "Values for the chart: `helm install ray ./helm/ray-cluster -f <(terraform output -json ray_helm_values)`."
  value       = module.ray_values.values
}
