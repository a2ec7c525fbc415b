variable "password" {
  type      = string
  sensitive = true
  default   = ""
}

# A careless module: prints what it was given, and fails with it on its lips.
resource "terraform_data" "careless" {
  provisioner "local-exec" {
    command     = "sleep 0.3; echo \"$GIVEN\"; echo \"$GIVEN\" >&2; exit 1"
    environment = { GIVEN = nonsensitive(var.password) }
  }
}
