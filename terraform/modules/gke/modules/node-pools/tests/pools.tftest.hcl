mock_provider "google" {}

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
      v6e = { machine_type = "ct6e-standard-4t", tpu_topology = "4x4" }
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
