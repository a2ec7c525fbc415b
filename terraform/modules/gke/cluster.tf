resource "google_container_cluster" "this" {
  name                = var.name
  project             = var.project
  location            = var.location
  node_locations      = length(var.zones) > 0 ? var.zones : null
  min_master_version  = var.kubernetes_version
  deletion_protection = var.deletion_protection
  enable_autopilot    = var.autopilot ? true : null
  network             = local.network
  subnetwork          = local.subnetwork
  networking_mode     = "VPC_NATIVE"
  resource_labels     = merge(var.labels, var.cluster_labels)

  # The pools are resources of their own: GKE's first one, which is made with the cluster, goes at once.
  remove_default_node_pool = var.autopilot ? null : true
  initial_node_count       = var.autopilot ? null : 1
  datapath_provider        = var.autopilot ? null : "ADVANCED_DATAPATH"
  enable_shielded_nodes    = var.autopilot ? null : true

  # Flow logs see the traffic between pods of one node, too.
  enable_intranode_visibility = var.autopilot ? null : true

  ip_allocation_policy {
    cluster_secondary_range_name  = local.pod_range
    services_secondary_range_name = local.service_range
  }

  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = !var.endpoint_public_access
  }

  # By its name it lets in whom IAM lets in, whatever the networks below.
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = var.dns_endpoint
    }
  }

  # An empty list lets nobody in from outside; no list at all would let everybody.
  master_authorized_networks_config {
    gcp_public_cidrs_access_enabled = false

    dynamic "cidr_blocks" {
      for_each = toset(concat(var.endpoint_public_access_cidrs, var.endpoint_private_access_cidrs))

      content {
        cidr_block = cidr_blocks.value
      }
    }
  }

  master_auth {
    client_certificate_config {
      issue_client_certificate = false
    }
  }

  database_encryption {
    state    = "ENCRYPTED"
    key_name = local.kms_key
  }

  release_channel {
    channel = var.release_channel
  }

  workload_identity_config {
    workload_pool = "${var.project}.svc.id.goog"
  }

  logging_config {
    enable_components = var.control_plane_logs
  }

  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS"]

    managed_prometheus {
      enabled = true
    }
  }

  addons_config {
    gcs_fuse_csi_driver_config {
      enabled = true
    }

    dynamic "ray_operator_config" {
      for_each = var.ray_operator ? [1] : []

      content {
        enabled = true

        ray_cluster_logging_config {
          enabled = true
        }

        ray_cluster_monitoring_config {
          enabled = true
        }
      }
    }
  }

  # The pool that goes at once, too, must not run as the project's default account.
  dynamic "node_config" {
    for_each = var.autopilot ? [] : [1]

    content {
      service_account = google_service_account.nodes.email
      oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]

      shielded_instance_config {
        enable_secure_boot          = true
        enable_integrity_monitoring = true
      }

      workload_metadata_config {
        mode = "GKE_METADATA"
      }
    }
  }

  dynamic "cluster_autoscaling" {
    for_each = var.autopilot ? [1] : []

    content {
      auto_provisioning_defaults {
        service_account = google_service_account.nodes.email
        oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
      }
    }
  }

  lifecycle {
    # Of the pool that is gone; and of the run that set it up last, written when the cluster is made, and renewed without
    # Terraform.
    ignore_changes = [
      node_config, initial_node_count,
      resource_labels["airflow-ray-run"], resource_labels["airflow-ray-expires"],
      resource_labels["airflow-ray-version"], resource_labels["airflow-ray-used"],
    ]

    # Here and not at the variables: whose rules would end a destroy, too, of what an earlier release began.
    precondition {
      condition     = alltrue([for zone in var.zones : can(regex("^${local.region}-[a-z0-9]*[a-z]$", zone))])
      error_message = "zones: ${join(", ", var.zones)}: each must be a zone of ${local.region}, such as ${local.region}-b. A region goes into location."
    }
    # A control plane with a private address alone takes internal networks only (docs/concepts/network-isolation).
    precondition {
      condition     = var.endpoint_public_access || length(var.endpoint_public_access_cidrs) == 0
      error_message = "endpoint_public_access must be true for endpoint_public_access_cidrs: without a public address nobody out there reaches the Kubernetes API. Internal networks go into endpoint_private_access_cidrs."
    }
    precondition {
      condition     = !contains(keys(var.service_accounts), "nodes")
      error_message = "service_accounts: the key nodes is taken: the nodes' own account has that id."
    }
  }

  depends_on = [google_kms_crypto_key_iam_member.cluster, google_project_iam_member.nodes]
}

# Airflow isn't in a network that did not exist: setting up Ray would fail, and so would looking whether it is still used.
check "endpoint_in_reach" {
  assert {
    condition     = !var.create_network || var.endpoint_public_access || var.dns_endpoint || length(var.endpoint_private_access_cidrs) > 0
    error_message = "dns_endpoint: the Kubernetes API has a private address only, in a network that is made here: nobody outside reaches it. Set dns_endpoint = true, or endpoint_public_access with endpoint_public_access_cidrs; or create_network = false and the network that Airflow is in; or endpoint_private_access_cidrs, if you connect the networks."
  }
}
