"""An exec plugin for kubeconfigs: prints a token for an EKS or GKE cluster, and stores nothing.

``python -m ray_provider.infrastructure.exec_plugin eks --name NAME --region REGION [--role-arn ARN] [--profile NAME]``
``python -m ray_provider.infrastructure.exec_plugin gke --name NAME --location LOCATION --project PROJECT``
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from ray_provider.exceptions import RayProviderError
from ray_provider.infrastructure.cloud.credentials import RENEW_BEFORE_SECONDS, Token


def main(arguments: Sequence[str] | None = None) -> int:
    """Print an ExecCredential.

    :param arguments: of the command line; the process's own unless given.
    """
    given = _parser().parse_args(arguments)
    try:
        token = _token(given)
    except RayProviderError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    ends = datetime.fromtimestamp(token.expires - RENEW_BEFORE_SECONDS, tz=UTC)
    status = {"token": token.value, "expirationTimestamp": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    sys.stdout.write(json.dumps(credential) + "\n")
    return 0


def _token(given: argparse.Namespace) -> Token:
    if given.cloud == "eks":
        from ray_provider.infrastructure.cloud.eks import EksCluster, eks_token

        return eks_token(
            EksCluster(name=given.name, region=given.region, role_arn=given.role_arn, profile=given.profile)
        )
    from ray_provider.infrastructure.cloud.gke import GkeCluster, gke_token

    return gke_token(
        GkeCluster(name=given.name, location=given.location, project=given.project, impersonate=given.impersonate)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ray_provider.infrastructure.exec_plugin", description="Print a token.")
    clouds = parser.add_subparsers(dest="cloud", required=True)
    eks = clouds.add_parser("eks")
    eks.add_argument("--name", required=True)
    eks.add_argument("--region", required=True)
    eks.add_argument("--role-arn")
    eks.add_argument("--profile")
    gke = clouds.add_parser("gke")
    gke.add_argument("--name", required=True)
    gke.add_argument("--location", required=True)
    gke.add_argument("--project", required=True)
    gke.add_argument("--impersonate")
    return parser


if __name__ == "__main__":
    sys.exit(main())
