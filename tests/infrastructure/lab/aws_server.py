"""An emulated AWS on a free loopback port, in a process of its own.

As a program: ``python -m tests.infrastructure.lab.aws_server`` prints its address and runs until its input closes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[3]
REGION = "us-east-1"
#: Not a secret: moto takes any.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
}


class AwsServer:
    """The emulated AWS, as a context manager.

    :param cluster_endpoint: the Kubernetes API's address that every EKS cluster made here gets.
    :param cluster_ca_data: its CA (PEM, base64-encoded).
    :param session_seconds: how long the keys of an assumed role are good for. Older ones are refused, as AWS does.
    :param log: where the server's requests are written.
    """

    def __init__(
        self,
        *,
        cluster_endpoint: str | None = None,
        cluster_ca_data: str | None = None,
        session_seconds: float | None = None,
        log: Path | None = None,
    ) -> None:
        self._arguments = [
            *(["--cluster-endpoint", cluster_endpoint] if cluster_endpoint else []),
            *(["--cluster-ca-data", cluster_ca_data] if cluster_ca_data else []),
            *(["--session-seconds", str(session_seconds)] if session_seconds else []),
        ]
        self._log = log
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "TF_"))}
        env |= {
            "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **CREDENTIALS,
        }
        errors = self._log.open("w") if self._log else subprocess.DEVNULL
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.infrastructure.lab.aws_server", *self._arguments],
                cwd=ROOT,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        finally:
            if self._log and not isinstance(errors, int):
                errors.close()
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        if not self.url.startswith("http"):
            self.__exit__(None, None, None)
            raise RuntimeError(f"the emulated AWS did not start: it ended with {self.process.returncode}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        if self.process.stdout:
            self.process.stdout.close()

    @property
    def env(self) -> dict[str, str]:
        """What a program needs in its environment to talk to this AWS and no other."""
        return {
            **CREDENTIALS,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "3",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def terraform_calls(self) -> set[str]:
        """Give what Terraform has asked so far, as IAM names it; needs a ``log``."""
        from tests.infrastructure.lab import calls

        assert self._log is not None
        return calls.read(self._log)

    def client(self, service: str) -> Any:
        """Give a boto3 client of this AWS."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )


def _secrets() -> dict[str, str]:
    """Give the secret keys of the account's owner and of all roles that are assumed."""
    from moto.sts.models import sts_backends

    found = {CREDENTIALS["AWS_ACCESS_KEY_ID"]: CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}
    for account in sts_backends.values():
        for backend in account.values():
            found |= {role.access_key_id: role.secret_access_key for role in backend.assumed_roles}
    return found


def main() -> None:
    """Serve until the input closes (so that nothing is left behind by a parent that died)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cluster-endpoint")
    parser.add_argument("--cluster-ca-data")
    parser.add_argument("--session-seconds", type=float)
    options = parser.parse_args()
    from moto.moto_server import threaded_moto_server
    from moto.server import ThreadedMotoServer

    from tests.infrastructure.lab import calls
    from tests.infrastructure.lab.expiring import Expiring
    from tests.infrastructure.lab.moto_eks import install
    from tests.infrastructure.lab.presigned import Presigned

    install(endpoint=options.cluster_endpoint, ca_data=options.cluster_ca_data)
    calls.install()
    make = threaded_moto_server.DomainDispatcherApplication
    threaded_moto_server.DomainDispatcherApplication = lambda *given, **more: Expiring(
        Presigned(make(*given, **more), _secrets), options.session_seconds
    )
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    with contextlib.redirect_stdout(sys.stderr):
        server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
