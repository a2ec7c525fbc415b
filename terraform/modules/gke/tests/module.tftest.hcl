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
  # Within reach of Airflow, else each plan would warn.
  endpoint_private_access_cidrs = ["10.20.0.0/16"]
}

# A run plans everything anew, a second of CPU each: what can be planned together is.
run "private_by_default" {
  command = plan

  variables {
    gpu_image = { tag = "2.60.0-gpu" }
    node_pools = {
      l4  = { machine_type = "g2-standard-8", max = 4 }
      cpu = { machine_type = "n2-standard-8", min = 0 }
    }
  }

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
  assert {
    condition     = join(",", keys(output.ray_helm_values.additionalWorkerGroups)) == "cpu,l4"
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
  assert {
    condition     = output.ray_helm_values.additionalWorkerGroups.l4.image.tag == "2.60.0-gpu" && !can(output.ray_helm_values.additionalWorkerGroups.cpu.image)
    error_message = "The chart's image has no CUDA."
  }
}

run "a_zone_lies_in_its_region" {
  command = plan

  variables {
    location                      = "europe-west4-a"
    name                          = "research-team-ray-cluster-one"
    service_accounts              = { ray = { namespace = "ray", name = "ray" } }
    ray_operator                  = true
    endpoint_private_access_cidrs = []
    dns_endpoint                  = true
  }

  assert {
    condition     = one(google_kms_key_ring.this[*].location) == "europe-west4"
    error_message = "Keys live in the region."
  }
  assert {
    condition     = output.ray_operator_managed == true
    error_message = "Who reads the outputs must know."
  }
  assert {
    condition     = google_container_cluster.this.control_plane_endpoints_config[0].dns_endpoint_config[0].allow_external_traffic == true
    error_message = "The name must be open to those whom IAM lets in."
  }
  assert {
    condition     = output.cluster_ca_certificate == null
    error_message = "The cluster's own authority did not sign the name's certificate."
  }
  assert {
    condition     = google_service_account.nodes.account_id == "research-team-ray-${substr(sha256("research-team-ray-cluster-one"), 0, 6)}-nodes"
    error_message = "Cut names must not meet: ${google_service_account.nodes.account_id}"
  }
  assert {
    condition     = length(google_service_account.nodes.account_id) <= 30
    error_message = "An id has up to 30 characters."
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

run "warns_of_an_endpoint_out_of_reach" {
  command = plan

  variables {
    endpoint_private_access_cidrs = []
  }

  expect_failures = [check.endpoint_in_reach]
}

run "an_existing_network_is_in_reach" {
  command = plan

  variables {
    endpoint_private_access_cidrs = []
    create_network                = false
    network                       = "n"
    subnetwork                    = "s"
    pod_range                     = "p"
    service_range                 = "v"
  }
}

run "refuses_values_that_google_cloud_does_not_know" {
  command = plan

  variables {
    location                      = "us-east-1"
    project                       = "X"
    release_channel               = "FAST"
    kubernetes_version            = "latest"
    endpoint_public_access        = true
    endpoint_public_access_cidrs  = ["0.0.0.0/0"]
    endpoint_private_access_cidrs = ["203.0.113.0/24"]
    node_pools                    = { system = { machine_type = "n2-standard-8" } }
  }

  expect_failures = [
    var.location, var.project, var.release_channel, var.kubernetes_version, var.endpoint_public_access_cidrs,
    var.endpoint_private_access_cidrs, var.node_pools,
  ]
}

run "refuses_what_excludes_each_other" {
  command = plan

  variables {
    network                = "n"
    kms_key                = "k"
    bucket_mode            = "none"
    endpoint_public_access = true
    autopilot              = true
    service_accounts       = { ray = { namespace = "ray", name = "ray", bucket_access = "read" } }
    node_pools             = { cpu = { machine_type = "n2-standard-8" } }
  }

  expect_failures = [var.network, var.kms_key, var.endpoint_public_access, var.service_accounts, var.node_pools]
}

run "refuses_what_needs_something_else" {
  command = plan

  variables {
    create_network      = false
    bucket_mode         = "existing"
    ray_service_account = "ray"
  }

  expect_failures = [
    var.network, var.subnetwork, var.pod_range, var.service_range, var.bucket_name, var.ray_service_account,
  ]
}

run "refuses_what_can_not_be_meant" {
  command = plan

  variables {
    autopilot                    = true
    zones                        = ["europe-west4"]
    endpoint_public_access_cidrs = ["203.0.113.0/24"]
    service_accounts             = { nodes = { namespace = "ray", name = "ray" } }
  }

  expect_failures = [google_container_cluster.this]
}
