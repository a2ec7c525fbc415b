mock_provider "google" {
  mock_data "google_compute_zones" {
    defaults = { names = ["europe-west4-a", "europe-west4-b", "europe-west4-c", "europe-west4-ai1a"] }
  }

  # What the cloud says of machine types. The name alone decides here, whatever the zone.
  mock_data "google_compute_machine_types" {
    defaults = {
      machine_types = [
        { name = "e2-standard-4", guest_cpus = 4, memory_mb = 16384, is_shared_cpus = false, accelerators = [] },
        { name = "e2-standard-8", guest_cpus = 8, memory_mb = 32768, is_shared_cpus = false, accelerators = [] },
        { name = "e2-medium", guest_cpus = 2, memory_mb = 4096, is_shared_cpus = true, accelerators = [] },
        { name = "n1-standard-8", guest_cpus = 8, memory_mb = 30720, is_shared_cpus = false, accelerators = [] },
        { name = "n2-standard-8", guest_cpus = 8, memory_mb = 32768, is_shared_cpus = false, accelerators = [] },
        { name = "n2-highmem-128", guest_cpus = 128, memory_mb = 884736, is_shared_cpus = false, accelerators = [] },
        { name = "c4-standard-96", guest_cpus = 96, memory_mb = 368640, is_shared_cpus = false, accelerators = [] },
        { name = "g2-standard-8", guest_cpus = 8, memory_mb = 32768, is_shared_cpus = false, accelerators = [{ guest_accelerator_type = "nvidia-l4", guest_accelerator_count = 1 }] },
        { name = "g2-standard-48", guest_cpus = 48, memory_mb = 196608, is_shared_cpus = false, accelerators = [{ guest_accelerator_type = "nvidia-l4", guest_accelerator_count = 4 }] },
        { name = "g4-standard-48", guest_cpus = 48, memory_mb = 184320, is_shared_cpus = false, accelerators = [{ guest_accelerator_type = "nvidia-rtx-pro-6000", guest_accelerator_count = 1 }] },
        { name = "g9-standard-8", guest_cpus = 8, memory_mb = 32768, is_shared_cpus = false, accelerators = [{ guest_accelerator_type = "nvidia-new", guest_accelerator_count = 2 }] },
        { name = "a3-highgpu-8g", guest_cpus = 208, memory_mb = 1916928, is_shared_cpus = false, accelerators = [{ guest_accelerator_type = "nvidia-h100-80gb", guest_accelerator_count = 8 }] },
        { name = "a4-highgpu-8g", guest_cpus = 224, memory_mb = 4063232, is_shared_cpus = false, accelerators = [{ guest_accelerator_type = "nvidia-b200", guest_accelerator_count = 8 }] },
        { name = "a4x-highgpu-4g", guest_cpus = 140, memory_mb = 905216, is_shared_cpus = false, accelerators = [{ guest_accelerator_type = "nvidia-gb200", guest_accelerator_count = 4 }] },
        { name = "ct6e-standard-4t", guest_cpus = 180, memory_mb = 737280, is_shared_cpus = false, accelerators = [] },
      ]
    }
  }
}

variables {
  project              = "my-project"
  location             = "europe-west4"
  cluster              = "ray"
  cluster_name         = "ray"
  node_service_account = "nodes@my-project.iam.gserviceaccount.com"
}

run "gpus_are_inferred_tainted_and_start_from_none" {
  command = plan

  variables {
    pools = {
      l4 = { machine_type = "g2-standard-48", capacity = "spot", max = 2 }
    }
  }

  assert {
    condition     = output.node_pools.l4.accelerator.count == 4
    error_message = "The accelerator must be inferred."
  }

  assert {
    condition     = output.node_pools.l4.min == 0
    error_message = "A pool with accelerators starts from none."
  }

  assert {
    condition     = google_container_node_pool.this["l4"].node_config[0].taint[0].key == "nvidia.com/gpu"
    error_message = "The GPU's taint must be there."
  }

  assert {
    condition     = google_container_node_pool.this["l4"].node_config[0].spot == true
    error_message = "Spot must be asked for."
  }
}

run "a_tpu_slice_of_several_hosts" {
  command = plan

  variables {
    pools = {
      v6e = { machine_type = "ct6e-standard-4t", tpu_topology = "4x4", zones = ["europe-west4-a"] }
    }
  }

  assert {
    condition     = output.node_pools.v6e.num_of_hosts == 4
    error_message = "16 chips on machines of 4."
  }

  assert {
    condition     = output.node_pools.v6e.node_selector["cloud.google.com/gke-tpu-topology"] == "4x4"
    error_message = "KubeRay's webhook needs the topology."
  }

  assert {
    condition     = google_container_node_pool.this["v6e"].placement_policy[0].tpu_topology == "4x4"
    error_message = "GKE needs the topology."
  }
}

run "refuses_a_capacity_block_on_google" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", capacity = "capacity_block" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_spot_and_reservation_together" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", capacity = "spot", reservation_name = "r" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_reservation_without_its_name" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", capacity = "reservation" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_duration_without_flex_start" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", max_run_duration = "3600s" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_duration_without_unit" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", capacity = "flex_start", max_run_duration = "1h" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_flex_start_with_standing_nodes" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", capacity = "flex_start", min = 1 }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_min_over_max" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", min = 3, max = 2 }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_no_nodes_at_all" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", max = 0 }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_an_unknown_driver" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", gpu_driver = "NEWEST" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_sharing_with_one" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", gpu_sharing = { strategy = "MPS", clients = 1 } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_topology_without_tpu" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", tpu_topology = "2x2" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_compact_in_all_zones" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", compact_placement = true }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_an_unknown_effect" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", taints = [{ key = "a", effect = "Never" }] }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_tiny_disk" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", disk_gib = 8 }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_the_label_of_the_module" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", labels = { ray-pool = "x" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_bad_machine_type" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_bad_topology" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "ct6e-standard-4t", tpu_topology = "16" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_another_accelerator" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", accelerator = { type = "nvidia-h100-80gb" } }
    }
  }

  expect_failures = [google_container_node_pool.this["bad"]]
}

run "refuses_another_number_of_accelerators" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", accelerator = { count = 8 } }
    }
  }

  expect_failures = [google_container_node_pool.this["bad"]]
}

run "refuses_an_accelerator_for_a_machine_without" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "e2-standard-8", accelerator = { type = "nvidia-l4", count = 1 } }
    }
  }

  expect_failures = [google_container_node_pool.this["bad"]]
}

run "refuses_half_an_accelerator" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "n1-standard-8", accelerator = { type = "nvidia-tesla-t4" } }
    }
  }

  expect_failures = [google_container_node_pool.this["bad"]]
}

run "refuses_sharing_without_gpu" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "n2-standard-8", gpu_sharing = { strategy = "MPS", clients = 2 } }
    }
  }

  expect_failures = [google_container_node_pool.this["bad"]]
}

run "refuses_two_slices_in_a_pool" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "ct6e-standard-4t", tpu_topology = "4x4", max = 2 }
    }
  }

  expect_failures = [google_container_node_pool.this["bad"]]
}

run "refuses_a_machine_it_does_not_know" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "z9-giga-1", max = 1 }
    }
  }

  expect_failures = [google_container_node_pool.this["bad"]]
}

run "taints_in_the_clouds_own_spelling" {
  command = plan

  variables {
    pools = {
      gpu = { machine_type = "g2-standard-48", taints = [{ key = "team", value = "ml", effect = "NO_SCHEDULE" }, { key = "team", value = "ml", effect = "PreferNoSchedule" }] }
    }
  }

  assert {
    condition     = [for taint in google_container_node_pool.this["gpu"].node_config[0].taint : taint.effect if taint.key == "team"] == ["NO_SCHEDULE", "PREFER_NO_SCHEDULE"]
    error_message = "Both spellings must be taken."
  }

  assert {
    condition     = [for toleration in output.node_pools.gpu.tolerations : toleration.effect if toleration.key == "team"] == ["NoSchedule", "PreferNoSchedule"]
    error_message = "Kubernetes knows its own spelling alone."
  }
}

run "labels_that_are_allowed" {
  command = plan

  variables {
    pools = {
      gpu = { machine_type = "g2-standard-48", labels = { "k8s.amazonaws.com/accelerator" = "nvidia-a10g", "node.kubernetes.io/purpose" = "ray", "example.com/Team_1" = "", team = "A.b_c-9" } }
    }
  }
}

run "refuses_a_label_value_that_kubernetes_refuses" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", labels = { purpose = "ml training/large" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_label_value_that_is_too_long" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", labels = { purpose = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_label_key_that_kubernetes_refuses" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", labels = { "my label" = "x" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_label_that_kubelets_may_not_set" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", labels = { "node-role.kubernetes.io/gpu" = "true" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_label_of_kubernetes_itself" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", labels = { "foo.k8s.io/x" = "true" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_taint_key_that_kubernetes_refuses" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", taints = [{ key = "dedicated team", value = "true" }] }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_two_values_of_one_taint" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48", taints = [{ key = "team", value = "a" }, { key = "team", value = "b", effect = "NO_SCHEDULE" }] }
    }
  }

  expect_failures = [var.pools]
}

run "asks_no_more_than_a_node_has" {
  command = plan

  variables {
    pools = {
      c4   = { machine_type = "c4-standard-96" }
      g4   = { machine_type = "g4-standard-48" }
      n2   = { machine_type = "n2-highmem-128" }
      e2   = { machine_type = "e2-standard-4", image_streaming = false }
      tiny = { machine_type = "e2-medium" }
      own  = { machine_type = "n2-custom-8-32768" }
    }
  }

  # Of 360, 180 and 864 GiB: GKE's steps, image streaming, the kernel's pages, 1 GiB for daemon sets.
  assert {
    condition     = [for name in ["c4", "g4", "n2", "e2"] : output.node_pools[name].allocatable.memory_gib] == [333, 161, 815, 11]
    error_message = "A pod must fit: ${jsonencode({ for name, pool in output.node_pools : name => pool.allocatable })}"
  }

  assert {
    condition     = [for name in ["c4", "g4", "n2", "e2", "tiny", "own"] : output.node_pools[name].allocatable.cpu] == [95, 47, 127, 3, 0.4, 7]
    error_message = "A pod must fit: ${jsonencode({ for name, pool in output.node_pools : name => pool.allocatable })}"
  }

  assert {
    condition     = output.node_pools.g4.accelerator.type == "nvidia-rtx-pro-6000"
    error_message = "G4 machines have a GPU each."
  }
}

run "a_gpu_machine_that_only_the_cloud_knows" {
  command = plan

  variables {
    pools = {
      new = { machine_type = "g9-standard-8" }
    }
  }

  assert {
    condition     = output.node_pools.new.accelerator == { resource = "nvidia.com/gpu", type = "nvidia-new", count = 2 }
    error_message = "The cloud says which GPUs a machine has."
  }
}

run "a_tpu_that_the_cloud_lists_nowhere" {
  command = plan

  variables {
    pools = {
      v7 = { machine_type = "tpu7x-standard-4t", zones = ["europe-west4-b"] }
    }
  }

  assert {
    condition     = output.node_pools.v7.accelerator.type == "tpu7x" && output.node_pools.v7.num_of_hosts == 1
    error_message = "It is a TPU of one host."
  }
}

run "refuses_a_zone_without_the_machine" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g2-standard-48" }
    }
  }

  override_data {
    target = data.google_compute_machine_types.this["europe-west4-c/g2-standard-48"]
    values = { machine_types = [] }
  }

  expect_failures = [google_container_node_pool.this["bad"]]
}

run "the_minimum_is_that_of_all_zones" {
  command = plan

  variables {
    pools = {
      six  = { machine_type = "n2-standard-8", min = 6, max = 9 }
      one  = { machine_type = "n2-standard-8", min = 1, zones = ["europe-west4-a"] }
      few  = { machine_type = "n2-standard-8", min = 1, max = 2 }
      gpus = { machine_type = "g2-standard-8", min = 1 }
      four = { machine_type = "g2-standard-8", min = 4, max = 4, zones = ["europe-west4-a", "europe-west4-b"] }
    }
  }

  assert {
    condition     = { for name, pool in google_container_node_pool.this : name => pool.initial_node_count } == { six = 2, one = 1, few = 0, gpus = 0, four = 2 }
    error_message = "The initial number is one for each zone."
  }

  assert {
    condition     = google_container_node_pool.this["six"].autoscaling[0].total_min_node_count == 6 && google_container_node_pool.this["six"].autoscaling[0].min_node_count == null
    error_message = "The limits are those of all zones."
  }
}

run "tpus_of_flex_start_have_limits_of_their_zone" {
  command = plan

  variables {
    pools = {
      v6e = { machine_type = "ct6e-standard-4t", tpu_topology = "4x4", capacity = "flex_start", max_run_duration = "86400s", zones = ["europe-west4-a"] }
    }
  }

  assert {
    condition     = google_container_node_pool.this["v6e"].autoscaling[0].max_node_count == 4 && google_container_node_pool.this["v6e"].autoscaling[0].total_max_node_count == null
    error_message = "GKE refuses TPUs of flex-start with the limits of all zones."
  }
}

run "queued_nodes_are_labelled" {
  command = plan

  variables {
    pools = {
      jobs = { machine_type = "g2-standard-8", capacity = "queued" }
    }
  }

  assert {
    condition     = google_container_node_pool.this["jobs"].node_config[0].labels["cloud.google.com/gke-queued"] == "true" && output.node_pools.jobs.node_selector["cloud.google.com/gke-queued"] == "true"
    error_message = "Kueue's jobs select them by it."
  }
}

# What each says is in tests/infrastructure/test_gke_apply.py.
run "refuses_what_gke_does_not_have" {
  command = plan

  variables {
    pools = {
      queued  = { machine_type = "g2-standard-8", capacity = "queued", compact_placement = true, zones = ["europe-west4-a"] }
      flex    = { machine_type = "a3-highgpu-8g", capacity = "flex_start", compact_placement = true, zones = ["europe-west4-a"] }
      slice   = { machine_type = "ct6e-standard-4t", tpu_topology = "4x4" }
      tpuflex = { machine_type = "ct6e-standard-4t", capacity = "flex_start", zones = ["europe-west4-a", "europe-west4-b"] }
      network = { machine_type = "a3-highgpu-8g", max = 2 }
      grace   = { machine_type = "a4x-highgpu-4g" }
      v7      = { machine_type = "tpu7x-standard-4t", tpu_topology = "2x2x2", zones = ["europe-west4-a"] }
    }
  }

  expect_failures = [
    google_container_node_pool.this["queued"], google_container_node_pool.this["flex"], google_container_node_pool.this["slice"],
    google_container_node_pool.this["tpuflex"], google_container_node_pool.this["network"], google_container_node_pool.this["grace"],
    google_container_node_pool.this["v7"],
  ]
}

run "takes_what_gke_has" {
  command = plan

  variables {
    pools = {
      flex    = { machine_type = "a4-highgpu-8g", capacity = "flex_start", compact_placement = true, zones = ["europe-west4-a"] }
      slice   = { machine_type = "ct6e-standard-4t", tpu_topology = "4x4", capacity = "queued", zones = ["europe-west4-a"] }
      network = { machine_type = "a3-highgpu-8g", max = 2, ordinary_network = true }
      ai      = { machine_type = "a4-highgpu-8g", zones = ["europe-west4-ai1a"] }
    }
  }
}

run "refuses_zones_that_are_none_of_the_region" {
  command = plan

  variables {
    zones = ["us-central1-a"]
    pools = {
      none = { machine_type = "g2-standard-48" }
      bad  = { machine_type = "g2-standard-48", zones = ["europe-west3-a", "europe-west4"] }
    }
  }

  expect_failures = [google_container_node_pool.this["bad"], google_container_node_pool.this["none"]]
}
