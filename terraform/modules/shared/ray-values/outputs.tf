output "values" {
  description = "Values for the Helm chart `helm/ray-cluster`: a head on CPU and a worker group for each further pool."
  value = merge(
    { head = local.head },
    # Without pools (Auto Mode, Autopilot) the chart's own worker group stays: the cloud finds a node for it.
    { for key in ["worker"] : key => { disabled = true } if length(local.groups) > 0 },
    { for key in ["additionalWorkerGroups"] : key => local.groups if length(local.groups) > 0 },
  )
}
