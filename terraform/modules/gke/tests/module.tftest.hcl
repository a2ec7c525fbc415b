mock_provider "google" {
  mock_data "google_project" {
    defaults = {
      number = "123456789012"
    }
  }
}

variables {
  name     = "ray"
  project  = "my-project"
  location = "europe-west4"
}

run "private_by_default" {
  command = plan

  assert {
    condition     = google_container_cluster.this.private_cluster_config[0].enable_private_endpoint == true
    error_message = "The Kubernetes API must be private by default."
  }

  assert {
    condition     = google_container_cluster.this.private_cluster_config[0].enable_private_nodes == true
    error_message = "Nodes must have no public address."
  }

  assert {
    condition     = google_container_cluster.this.database_encryption[0].state == "ENCRYPTED"
    error_message = "Secrets must be encrypted."
  }

  assert {
    condition     = output.cloud == "gcp" && output.location == "europe-west4"
    error_message = "Cloud and location must be told."
  }
}

run "a_zone_lies_in_its_region" {
  command = plan

  variables {
    location = "europe-west4-a"
  }

  assert {
    condition     = one(google_kms_key_ring.this[*].location) == "europe-west4"
    error_message = "Keys live in the region."
  }
}

run "pools_become_worker_groups" {
  command = plan

  variables {
    node_pools = {
      l4 = { machine_type = "g2-standard-8", max = 4 }
    }
  }

  assert {
    condition     = join(",", keys(output.ray_helm_values.additionalWorkerGroups)) == "l4"
    error_message = "Each pool but the system's must become a worker group."
  }

  assert {
    condition     = output.ray_helm_values.additionalWorkerGroups.l4.resources.limits["nvidia.com/gpu"] == 1
    error_message = "The GPU must be asked for."
  }

  assert {
    condition     = output.nvidia_device_plugin_required == false
    error_message = "GKE brings its own device plugin."
  }
}

run "autopilot_has_no_pools_of_ours" {
  command = plan

  variables {
    autopilot = true
  }

  assert {
    condition     = length(output.node_pools) == 0
    error_message = "Autopilot makes the nodes itself."
  }

  assert {
    condition     = google_container_cluster.this.enable_autopilot == true
    error_message = "Autopilot must be on."
  }
}

run "gkes_own_ray_operator" {
  command = plan

  variables {
    ray_operator = true
  }

  assert {
    condition     = output.ray_operator_managed == true
    error_message = "Who reads the outputs must know."
  }
}

run "refuses_a_public_endpoint_without_networks" {
  command = plan

  variables {
    endpoint_public_access = true
  }

  expect_failures = [var.endpoint_public_access]
}

run "refuses_the_whole_internet" {
  command = plan

  variables {
    endpoint_public_access       = true
    endpoint_public_access_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.endpoint_public_access_cidrs]
}

run "refuses_pools_with_autopilot" {
  command = plan

  variables {
    autopilot = true
    node_pools = {
      cpu = { machine_type = "n2-standard-8" }
    }
  }

  expect_failures = [var.node_pools]
}

run "refuses_a_second_system_pool" {
  command = plan

  variables {
    node_pools = {
      system = { machine_type = "n2-standard-8" }
    }
  }

  expect_failures = [var.node_pools]
}

run "refuses_a_network_beside_the_one_it_makes" {
  command = plan

  variables {
    network = "n"
  }

  expect_failures = [var.network]
}

run "refuses_no_network_at_all" {
  command = plan

  variables {
    create_network = false
  }

  expect_failures = [var.network, var.subnetwork, var.pod_range, var.service_range]
}

run "refuses_a_key_beside_the_one_it_makes" {
  command = plan

  variables {
    kms_key = "k"
  }

  expect_failures = [var.kms_key]
}

run "refuses_an_existing_bucket_without_name" {
  command = plan

  variables {
    bucket_mode = "existing"
  }

  expect_failures = [var.bucket_name]
}

run "refuses_bucket_access_without_bucket" {
  command = plan

  variables {
    bucket_mode = "none"
    service_accounts = {
      ray = { namespace = "ray", name = "ray", bucket_access = "read" }
    }
  }

  expect_failures = [var.service_accounts]
}

run "refuses_an_unknown_ray_service_account" {
  command = plan

  variables {
    ray_service_account = "ray"
  }

  expect_failures = [var.ray_service_account]
}

run "refuses_a_bad_location" {
  command = plan

  variables {
    location = "us-east-1"
  }

  expect_failures = [var.location]
}

run "refuses_a_bad_project" {
  command = plan

  variables {
    project = "X"
  }

  expect_failures = [var.project]
}

run "refuses_an_unknown_channel" {
  command = plan

  variables {
    release_channel = "FAST"
  }

  expect_failures = [var.release_channel]
}

run "refuses_a_bad_version" {
  command = plan

  variables {
    kubernetes_version = "latest"
  }

  expect_failures = [var.kubernetes_version]
}
