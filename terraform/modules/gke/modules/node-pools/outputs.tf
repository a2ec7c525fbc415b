output "node_pools" {
  description = "The pools as Kubernetes sees them: selector, tolerations, accelerator, what a node can give, and how many there may be."
  value = {
    for name, pool in var.pools : name => {
      node_selector = local.selector[name]
      tolerations = [
        for taint in local.tolerated[name] : {
          key      = taint.key
          operator = taint.value == "" ? "Exists" : "Equal"
          value    = taint.value
          effect   = taint.effect
        }
      ]
      accelerator  = local.accelerators[name]
      allocatable  = local.allocatable[name]
      min          = local.min[name]
      max          = pool.max
      num_of_hosts = local.hosts[name]
    }
  }

  # Who reads this wants to put pods there.
  depends_on = [google_container_node_pool.this]
}
