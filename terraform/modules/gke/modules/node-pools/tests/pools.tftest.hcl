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

# A run plans everything anew, most of a second of CPU each: what can be planned together is, each pool with what it is there for.
run "what_pools_become" {
  command = plan

  variables {
    pools = {
      l4       = { machine_type = "g2-standard-48", capacity = "spot", max = 2 }
      v6e      = { machine_type = "ct6e-standard-4t", tpu_topology = "4x4", zones = ["europe-west4-a"] }
      spelling = { machine_type = "g2-standard-48", taints = [{ key = "team", value = "ml", effect = "NO_SCHEDULE" }, { key = "team", value = "ml", effect = "PreferNoSchedule" }] }
      labels   = { machine_type = "g2-standard-48", labels = { "k8s.amazonaws.com/accelerator" = "nvidia-a10g", "node.kubernetes.io/purpose" = "ray", "example.com/Team_1" = "", team = "A.b_c-9" } }
      c4       = { machine_type = "c4-standard-96" }
      g4       = { machine_type = "g4-standard-48" }
      n2       = { machine_type = "n2-highmem-128" }
      e2       = { machine_type = "e2-standard-4", image_streaming = false }
      tiny     = { machine_type = "e2-medium" }
      own      = { machine_type = "n2-custom-8-32768" }
      new      = { machine_type = "g9-standard-8" }
      v7       = { machine_type = "tpu7x-standard-4t", zones = ["europe-west4-b"] }
      six      = { machine_type = "n2-standard-8", min = 6, max = 9 }
      one      = { machine_type = "n2-standard-8", min = 1, zones = ["europe-west4-a"] }
      few      = { machine_type = "n2-standard-8", min = 1, max = 2 }
      gpus     = { machine_type = "g2-standard-8", min = 1 }
      four     = { machine_type = "g2-standard-8", min = 4, max = 4, zones = ["europe-west4-a", "europe-west4-b"] }
      tpuflex  = { machine_type = "ct6e-standard-4t", tpu_topology = "4x4", capacity = "flex_start", max_run_duration = "86400s", zones = ["europe-west4-a"] }
      queued   = { machine_type = "g2-standard-8", capacity = "queued" }
      flex     = { machine_type = "a4-highgpu-8g", capacity = "flex_start", compact_placement = true, zones = ["europe-west4-a"] }
      slice    = { machine_type = "ct6e-standard-4t", tpu_topology = "4x4", capacity = "queued", zones = ["europe-west4-a"] }
      network  = { machine_type = "a3-highgpu-8g", max = 2, ordinary_network = true }
      ai       = { machine_type = "a4-highgpu-8g", zones = ["europe-west4-ai1a"] }
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
  assert {
    condition     = [for taint in google_container_node_pool.this["spelling"].node_config[0].taint : taint.effect if taint.key == "team"] == ["NO_SCHEDULE", "PREFER_NO_SCHEDULE"]
    error_message = "Both spellings must be taken."
  }
  assert {
    condition     = [for toleration in output.node_pools.spelling.tolerations : toleration.effect if toleration.key == "team"] == ["NoSchedule", "PreferNoSchedule"]
    error_message = "Kubernetes knows its own spelling alone."
  }
  assert {
    condition     = length(google_container_node_pool.this["labels"].node_config[0].labels) == 5
    error_message = "Kubernetes takes these labels."
  }
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
  assert {
    condition     = output.node_pools.new.accelerator == { resource = "nvidia.com/gpu", type = "nvidia-new", count = 2 }
    error_message = "The cloud says which GPUs a machine has."
  }
  assert {
    condition     = output.node_pools.v7.accelerator.type == "tpu7x" && output.node_pools.v7.num_of_hosts == 1
    error_message = "It is a TPU of one host."
  }
  assert {
    condition     = { for name, pool in google_container_node_pool.this : name => pool.initial_node_count if contains(["six", "one", "few", "gpus", "four"], name) } == { six = 2, one = 1, few = 0, gpus = 0, four = 2 }
    error_message = "The initial number is one for each zone."
  }
  assert {
    condition     = google_container_node_pool.this["six"].autoscaling[0].total_min_node_count == 6 && google_container_node_pool.this["six"].autoscaling[0].min_node_count == null
    error_message = "The limits are those of all zones."
  }
  assert {
    condition     = google_container_node_pool.this["tpuflex"].autoscaling[0].max_node_count == 4 && google_container_node_pool.this["tpuflex"].autoscaling[0].total_max_node_count == null
    error_message = "GKE refuses TPUs of flex-start with the limits of all zones."
  }
  assert {
    condition     = google_container_node_pool.this["queued"].node_config[0].labels["cloud.google.com/gke-queued"] == "true" && output.node_pools.queued.node_selector["cloud.google.com/gke-queued"] == "true"
    error_message = "Kueue's jobs select them by it."
  }
  assert {
    condition     = alltrue([for name in ["flex", "slice", "network", "ai"] : contains(keys(google_container_node_pool.this), name)])
    error_message = "GKE has these."
  }
}

# Each of these pools has one fault, and each has to be refused. What GKE does not have comes first; what the plan says of
# it is in tests/infrastructure/test_gke_apply.py.
run "refuses_pools_with_a_fault" {
  command = plan

  variables {
    pools = {
      queued                               = { machine_type = "g2-standard-8", capacity = "queued", compact_placement = true, zones = ["europe-west4-a"] }
      flex                                 = { machine_type = "a3-highgpu-8g", capacity = "flex_start", compact_placement = true, zones = ["europe-west4-a"] }
      slice                                = { machine_type = "ct6e-standard-4t", tpu_topology = "4x4" }
      tpuflex                              = { machine_type = "ct6e-standard-4t", capacity = "flex_start", zones = ["europe-west4-a", "europe-west4-b"] }
      network                              = { machine_type = "a3-highgpu-8g", max = 2 }
      grace                                = { machine_type = "a4x-highgpu-4g" }
      v7                                   = { machine_type = "tpu7x-standard-4t", tpu_topology = "2x2x2", zones = ["europe-west4-a"] }
      a-capacity-block-on-google           = { machine_type = "g2-standard-48", capacity = "capacity_block" }
      spot-and-reservation-together        = { machine_type = "g2-standard-48", capacity = "spot", reservation_name = "r" }
      a-reservation-without-its-name       = { machine_type = "g2-standard-48", capacity = "reservation" }
      a-duration-without-flex-start        = { machine_type = "g2-standard-48", max_run_duration = "3600s" }
      a-duration-without-unit              = { machine_type = "g2-standard-48", capacity = "flex_start", max_run_duration = "1h" }
      flex-start-with-standing-nodes       = { machine_type = "g2-standard-48", capacity = "flex_start", min = 1 }
      min-over-max                         = { machine_type = "g2-standard-48", min = 3, max = 2 }
      no-nodes-at-all                      = { machine_type = "g2-standard-48", max = 0 }
      an-unknown-driver                    = { machine_type = "g2-standard-48", gpu_driver = "NEWEST" }
      sharing-with-one                     = { machine_type = "g2-standard-48", gpu_sharing = { strategy = "MPS", clients = 1 } }
      a-topology-without-tpu               = { machine_type = "g2-standard-48", tpu_topology = "2x2" }
      compact-in-all-zones                 = { machine_type = "g2-standard-48", compact_placement = true }
      an-unknown-effect                    = { machine_type = "g2-standard-48", taints = [{ key = "a", effect = "Never" }] }
      a-tiny-disk                          = { machine_type = "g2-standard-48", disk_gib = 8 }
      the-label-of-the-module              = { machine_type = "g2-standard-48", labels = { ray-pool = "x" } }
      another-accelerator                  = { machine_type = "g2-standard-48", accelerator = { type = "nvidia-h100-80gb" } }
      another-number-of-accelerators       = { machine_type = "g2-standard-48", accelerator = { count = 8 } }
      an-accelerator-for-a-machine-without = { machine_type = "e2-standard-8", accelerator = { type = "nvidia-l4", count = 1 } }
      half-an-accelerator                  = { machine_type = "n1-standard-8", accelerator = { type = "nvidia-tesla-t4" } }
      sharing-without-gpu                  = { machine_type = "n2-standard-8", gpu_sharing = { strategy = "MPS", clients = 2 } }
      two-slices-in-a-pool                 = { machine_type = "ct6e-standard-4t", tpu_topology = "4x4", max = 2, zones = ["europe-west4-a"] }
      a-machine-it-does-not-know           = { machine_type = "z9-giga-1", max = 1 }
      a-label-value-with-a-space           = { machine_type = "g2-standard-48", labels = { purpose = "ml training/large" } }
      a-label-value-that-is-too-long       = { machine_type = "g2-standard-48", labels = { purpose = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" } }
      a-label-key-with-a-space             = { machine_type = "g2-standard-48", labels = { "my label" = "x" } }
      a-label-that-kubelets-may-not-set    = { machine_type = "g2-standard-48", labels = { "node-role.kubernetes.io/gpu" = "true" } }
      a-label-of-kubernetes-itself         = { machine_type = "g2-standard-48", labels = { "foo.k8s.io/x" = "true" } }
      a-taint-key-with-a-space             = { machine_type = "g2-standard-48", taints = [{ key = "dedicated team", value = "true" }] }
      two-values-of-one-taint              = { machine_type = "g2-standard-48", taints = [{ key = "team", value = "a" }, { key = "team", value = "b", effect = "NO_SCHEDULE" }] }
      a-zone-without-the-machine           = { machine_type = "g2-standard-8" }
      far                                  = { machine_type = "g2-standard-48", zones = ["europe-west3-a", "europe-west4"] }
    }
  }

  override_data {
    target = data.google_compute_machine_types.this["europe-west4-c/g2-standard-8"]
    values = { machine_types = [] }
  }

  expect_failures = [
    google_container_node_pool.this["queued"], google_container_node_pool.this["flex"], google_container_node_pool.this["slice"],
    google_container_node_pool.this["tpuflex"], google_container_node_pool.this["network"], google_container_node_pool.this["grace"],
    google_container_node_pool.this["v7"], google_container_node_pool.this["a-capacity-block-on-google"],
    google_container_node_pool.this["spot-and-reservation-together"], google_container_node_pool.this["a-reservation-without-its-name"],
    google_container_node_pool.this["a-duration-without-flex-start"], google_container_node_pool.this["a-duration-without-unit"],
    google_container_node_pool.this["flex-start-with-standing-nodes"], google_container_node_pool.this["min-over-max"],
    google_container_node_pool.this["no-nodes-at-all"], google_container_node_pool.this["an-unknown-driver"],
    google_container_node_pool.this["sharing-with-one"], google_container_node_pool.this["a-topology-without-tpu"],
    google_container_node_pool.this["compact-in-all-zones"], google_container_node_pool.this["an-unknown-effect"],
    google_container_node_pool.this["a-tiny-disk"], google_container_node_pool.this["the-label-of-the-module"],
    google_container_node_pool.this["another-accelerator"], google_container_node_pool.this["another-number-of-accelerators"],
    google_container_node_pool.this["an-accelerator-for-a-machine-without"], google_container_node_pool.this["half-an-accelerator"],
    google_container_node_pool.this["sharing-without-gpu"], google_container_node_pool.this["two-slices-in-a-pool"],
    google_container_node_pool.this["a-machine-it-does-not-know"], google_container_node_pool.this["a-label-value-with-a-space"],
    google_container_node_pool.this["a-label-value-that-is-too-long"], google_container_node_pool.this["a-label-key-with-a-space"],
    google_container_node_pool.this["a-label-that-kubelets-may-not-set"], google_container_node_pool.this["a-label-of-kubernetes-itself"],
    google_container_node_pool.this["a-taint-key-with-a-space"], google_container_node_pool.this["two-values-of-one-taint"],
    google_container_node_pool.this["a-zone-without-the-machine"], google_container_node_pool.this["far"],
  ]
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

run "refuses_zones_that_are_none_of_the_region" {
  command = plan

  variables {
    zones = ["us-central1-a"]
    pools = {
      none = { machine_type = "g2-standard-48" }
    }
  }

  expect_failures = [google_container_node_pool.this["none"]]
}
