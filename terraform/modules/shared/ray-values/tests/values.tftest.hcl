variables {
  head_pool = "system"
  node_pools = {
    system = {
      node_selector = { ray-pool = "system" }
      tolerations   = []
      allocatable   = { cpu = 1, memory_gib = 6, gpus = 0 }
      min           = 1
      max           = 3
      num_of_hosts  = 1
    }
    gpu = {
      node_selector = { ray-pool = "gpu" }
      tolerations   = [{ key = "nvidia.com/gpu", operator = "Equal", value = "present", effect = "NoSchedule" }]
      accelerator   = { resource = "nvidia.com/gpu", type = "H100", count = 8 }
      allocatable   = { cpu = 190, memory_gib = 1999, gpus = 8 }
      min           = 0
      max           = 2
      num_of_hosts  = 1
    }
  }
}

run "a_group_for_each_pool_but_the_heads" {
  command = plan

  assert {
    condition     = join(",", keys(output.values.additionalWorkerGroups)) == "gpu"
    error_message = "The head's pool is no worker group."
  }
  assert {
    condition     = output.values.additionalWorkerGroups.gpu.resources.limits["nvidia.com/gpu"] == 8
    error_message = "A worker takes all GPUs of its node."
  }
  assert {
    condition     = output.values.head.resources.limits.cpu == "1" && output.values.head.resources.limits.memory == "6Gi"
    error_message = "The head asks for no more than its node can give."
  }
}

run "without_pools_the_charts_own_group_stays" {
  command = plan

  variables {
    head_pool  = null
    node_pools = {}
  }

  assert {
    condition     = join(",", keys(output.values)) == "head"
    error_message = "Nothing but the head may be said."
  }
}

run "refuses_a_head_pool_that_is_not_there" {
  command = plan

  variables {
    head_pool = "other"
  }

  expect_failures = [var.head_pool]
}

run "gpu_groups_name_a_gpu_image_where_one_is_given" {
  command = plan

  variables {
    gpu_image = { tag = "2.60.0-gpu" }
    node_pools = {
      system = { node_selector = { ray-pool = "system" }, tolerations = [], allocatable = { cpu = 1, memory_gib = 6, gpus = 0 }, min = 1, max = 3, num_of_hosts = 1 }
      cpu    = { node_selector = { ray-pool = "cpu" }, tolerations = [], allocatable = { cpu = 1, memory_gib = 6, gpus = 0 }, min = 0, max = 3, num_of_hosts = 1 }
      gpu = {
        node_selector = { ray-pool = "gpu" }
        tolerations   = []
        accelerator   = { resource = "nvidia.com/gpu", type = "H100", count = 8 }
        allocatable   = { cpu = 190, memory_gib = 1999, gpus = 8 }
        min           = 0
        max           = 2
        num_of_hosts  = 1
        resources     = { "vpc.amazonaws.com/efa" = "32", "hugepages-2Mi" = "5120Mi" }
      }
    }
  }

  assert {
    condition     = output.values.additionalWorkerGroups.gpu.image == tomap({ tag = "2.60.0-gpu" })
    error_message = "What is not given stays the cluster's: ${jsonencode(output.values.additionalWorkerGroups.gpu)}"
  }
  assert {
    condition     = !contains(keys(output.values.additionalWorkerGroups.cpu), "image") && !contains(keys(output.values.head), "image")
    error_message = "Without GPUs the cluster's image does."
  }
  assert {
    condition     = output.values.additionalWorkerGroups.gpu.resources.limits["vpc.amazonaws.com/efa"] == "32" && output.values.additionalWorkerGroups.gpu.resources.requests["hugepages-2Mi"] == "5120Mi"
    error_message = "Further resources are asked for, requests as limits."
  }
}

run "refuses_a_gpu_image_that_says_nothing" {
  command = plan

  variables {
    gpu_image = {}
  }

  expect_failures = [var.gpu_image]
}
