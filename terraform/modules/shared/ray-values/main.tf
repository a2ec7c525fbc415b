# Used by both clouds' modules. Where each is a repository of its own it lies in that one's modules/
# (scripts/terraform_registry.py copies it).

locals {
  workers   = { for name, pool in var.node_pools : name => pool if name != var.head_pool }
  head_pool = [for name, pool in var.node_pools : pool if name == var.head_pool]

  # A node has less to give than the machine type says: the head asks for no more than is there.
  head_resources = {
    cpu    = tostring(min(concat([var.head_cpu], local.head_pool[*].allocatable.cpu)...))
    memory = "${floor(min(concat([var.head_memory_gib], local.head_pool[*].allocatable.memory_gib)...))}Gi"
  }

  service_account = { for key in ["serviceAccountName"] : key => var.service_account if var.service_account != null }

  gpu_image = var.gpu_image == null ? {} : { for key, value in var.gpu_image : key => value if value != null }

  worker_resources = {
    for name, pool in local.workers : name => merge(
      {
        cpu    = tostring(pool.allocatable.cpu)
        memory = "${floor(pool.allocatable.memory_gib)}Gi"
      },
      { for accelerator in [pool.accelerator] : accelerator.resource => accelerator.count if accelerator != null },
      pool.resources,
    )
  }

  head = merge(
    {
      enableInTreeAutoscaling = length(local.workers) > 0
      # Tasks run on workers: a busy head is a lost cluster.
      rayStartParams = { for key in ["num-cpus"] : key => "0" if length(local.workers) > 0 }
      resources      = { limits = local.head_resources, requests = local.head_resources }
      nodeSelector   = merge({}, local.head_pool[*].node_selector...)
      tolerations    = flatten(local.head_pool[*].tolerations)
    },
    local.service_account,
  )

  groups = {
    for name, pool in local.workers : name => merge(
      {
        replicas       = pool.min
        minReplicas    = pool.min
        maxReplicas    = pool.max
        numOfHosts     = pool.num_of_hosts
        rayStartParams = {}
        resources      = { limits = local.worker_resources[name], requests = local.worker_resources[name] }
        nodeSelector   = pool.node_selector
        tolerations    = pool.tolerations
      },
      { for key in ["image"] : key => local.gpu_image if pool.allocatable.gpus > 0 && var.gpu_image != null },
      local.service_account,
    )
  }
}
