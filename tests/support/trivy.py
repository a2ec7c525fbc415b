"""Trivy's scanner for Terraform, built from Trivy's Go module with the checks that the module carries.

The whole of Trivy takes three times as long to build, and asks a registry of container images for newer checks. What scans
Terraform is the same package. ``python -m tests.support.trivy`` builds it (ten minutes from nothing, once).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.kubernetes.node.cache import locked
from tests.support.terraform import cache_dir

MODULE, VERSION = "github.com/aquasecurity/trivy", "v0.74.0"
HOW = "Run 'python -m tests.support.trivy' (builds it, needs Go and the network; ten minutes from nothing)."

PROGRAM = """
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/aquasecurity/trivy/pkg/iac/rego"
	"github.com/aquasecurity/trivy/pkg/iac/scanners/terraform"
)

func main() {
	scanner := terraform.New(rego.WithEmbeddedPolicies(true), rego.WithEmbeddedLibraries(true))
	results, err := scanner.ScanFS(context.Background(), os.DirFS(os.Args[1]), ".")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	failed := [][]string{}
	for _, one := range results.GetFailed() {
		rule := one.Rule()
		failed = append(failed, []string{rule.ID, string(one.Severity()), rule.Summary, one.Range().GetFilename()})
	}
	answer := map[string]any{"failed": failed, "ignored": len(results.GetIgnored()), "passed": len(results.GetPassed())}
	json.NewEncoder(os.Stdout).Encode(answer)
}
"""


@dataclass(frozen=True)
class Finding:
    """What a check does not like.

    :param severity: ``LOW`` to ``CRITICAL``.
    :param file: below the folder that was scanned.
    """

    id: str
    severity: str
    title: str
    file: str


@dataclass(frozen=True)
class Report:
    """What all checks say of a folder.

    :param ignored: how often a comment in the code told a check to pass over.
    """

    failed: tuple[Finding, ...]
    passed: int
    ignored: int


def program() -> Path:
    """Give where it is, or would be."""
    return cache_dir("trivy", f"{VERSION}-{hashlib.sha256(PROGRAM.encode()).hexdigest()[:16]}", "scan")


def build() -> Path:
    """Build it, unless it is there.

    :raises RuntimeError: there is no Go.
    """
    final = program()
    final.parent.mkdir(parents=True, exist_ok=True)
    with locked(final.with_suffix(".lock"), "trivy"):
        go = shutil.which("go")
        if final.exists():
            return final
        if go is None:
            raise RuntimeError("Trivy's scanner is built from its Go module: install Go.")
        env = {**os.environ, "CGO_ENABLED": "0", "GOEXPERIMENT": "jsonv2", "GOFLAGS": "", "GOWORK": "off"}
        download = [go, "mod", "download", "-json", f"{MODULE}@{VERSION}"]
        found = subprocess.run(download, capture_output=True, text=True, check=True, env=env)
        with tempfile.TemporaryDirectory(dir=final.parent) as folder:
            # In a copy of the module: it is the main module there, so that its own versions of all others count.
            source = Path(shutil.copytree(json.loads(found.stdout)["Dir"], Path(folder, "module")))
            for path in (source, *source.rglob("*/")):
                path.chmod(0o755)  # Go keeps modules read-only
            (source / "cmd" / "scan").mkdir()
            (source / "cmd" / "scan" / "main.go").write_text(PROGRAM)
            made = Path(folder, "scan")
            command = [go, "build", "-trimpath", "-mod=readonly", "-ldflags", "-s -w", "-o", str(made), "./cmd/scan"]
            subprocess.run(command, cwd=source, check=True, env=env)
            made.rename(final)
    return final


def scan(folder: Path) -> Report:
    """Scan Terraform code, without asking anything of the network.

    :param folder: what to scan, with all below it.
    :raises RuntimeError: the scanner can't read it.
    """
    done = subprocess.run([str(program()), str(folder)], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise RuntimeError(f"Trivy's scanner ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    answer = json.loads(done.stdout)
    return Report(tuple(Finding(*one) for one in answer["failed"]), answer["passed"], answer["ignored"])


if __name__ == "__main__":
    try:
        print(f"Trivy's scanner at {build()}")
    except (RuntimeError, subprocess.CalledProcessError) as failure:
        sys.exit(str(failure))
