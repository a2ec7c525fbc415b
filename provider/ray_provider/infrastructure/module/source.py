"""Where a module comes from, and the copy of it that a run works in."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from ray_provider.infrastructure.errors import ModuleError
from ray_provider.resources import bundled

#: Left behind: what other runs of Terraform put there, and what no module needs.
_LEFT_OUT = shutil.ignore_patterns(
    ".terraform", "*.tfstate", "*.tfstate.*", ".terraform.tfstate.lock.info", ".git", "crash.log", "*.tfplan"
)
_LOCAL_SOURCE = re.compile(r'\bsource\s*=\s*"(\.\.?(?:/[^"]*)?)"')
_GIT_SECONDS = 600
#: By which git fetches a module unless its own variable says otherwise: those that check who answers.
_PROTOCOLS = "https:ssh"
#: A file in the copy of a repository: which commit it is of.
COMMIT = ".airflow-ray-commit"


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """A module by its bundled name, by path, or in a git repository.

    :param kind: where it comes from.
    :param location: path of the module's folder, or URL of the repository.
    :param subfolder: of the repository.
    :param ref: branch, tag or commit of the repository; empty: its default branch.
    """

    kind: Literal["bundled", "path", "git"]
    location: str
    subfolder: str = ""
    ref: str = ""

    @classmethod
    def parse(cls, text: str) -> ModuleSource:
        """Read ``eks``, ``/path``, ``git::https://host/repo.git//folder?ref=v1`` or ``git@host:repo.git//folder``.

        :param text: as the task names the module.
        :raises ModuleError: it is none of these, or not there.
        """
        if not isinstance(text, str) or not text.strip():
            raise ModuleError("module: give a bundled name, a path or a git URL.", field="module")
        text = text.strip()
        if (
            text.startswith(("git::", "git@"))
            or re.match(r"(?:https?|ssh|git)://", text)
            or re.search(r"\.git(?://|\?|$)", text)
        ):
            return cls._git(text.removeprefix("git::"))
        if re.fullmatch(r"[a-z][a-z0-9_-]*", text):
            try:
                path = bundled("terraform", "modules", text)
            except FileNotFoundError as error:
                raise ModuleError(
                    f"module: {text!r} is not a bundled module.",
                    hint=f"Bundled are: {', '.join(bundled_modules()) or 'none'}. A path has to be"
                    " absolute; a git URL begins with git:: or ends with .git.",
                    field="module",
                ) from error
            return cls("bundled", str(path))
        path = Path(text).expanduser()
        if not path.is_absolute():
            raise ModuleError(
                f"module: the path {text!r} is not absolute.",
                hint="Give an absolute path or a git URL. Other tasks are told it by the handle, and the folder of a"
                " DAG's file, where relative paths of other arguments begin, may be another one for each version.",
                field="module",
            )
        if not path.is_dir():
            raise ModuleError(f"module: there is no folder {path} on this worker.", field="module")
        return cls("path", str(path))

    @classmethod
    def _git(cls, text: str) -> ModuleSource:
        base, _, query = text.partition("?")
        ref = ""
        for part in query.split("&") if query else ():
            name, _, value = part.partition("=")
            if name != "ref":
                raise ModuleError(f"module: {name!r} is not understood in a git URL; only `ref` is.", field="module")
            ref = unquote(value)
        scheme = base.find("://")
        split = base.find("//", scheme + 3 if scheme >= 0 else 0)
        url, folder = (base, "") if split < 0 else (base[:split], base[split + 2 :])
        if ref.startswith("-") or url.startswith("-") or ".." in Path(folder).parts or Path(folder).is_absolute():
            raise ModuleError("module: the git URL's ref or folder is not acceptable.", field="module")
        return cls("git", url, folder.strip("/"), ref)

    @property
    def public(self) -> str:
        """The source as a person wrote it, without a password, for logs and XCom."""
        if self.kind == "bundled":
            return Path(self.location).name
        if self.kind == "path":
            return self.location
        url, _ = _without_credentials(self.location)
        return (
            f"git::{url}" + (f"//{self.subfolder}" if self.subfolder else "") + (f"?ref={self.ref}" if self.ref else "")
        )

    def copy_to(
        self, folder: Path, *, env: Mapping[str, str], redact: Callable[[str], str], remember: Callable[[str], None]
    ) -> Path:
        """Copy the module below ``folder``, and give the path of its root there.

        :param folder: a private one.
        :param env: for git.
        :param redact: takes secrets out of what git says.
        :param remember: learns the secrets in the address.
        :raises ModuleError: it can't be had.
        """
        if self.kind == "git":
            root = self._clone(folder / "repository", env, redact, remember)
            module = root / self.subfolder if self.subfolder else root
            if not module.is_dir():
                raise ModuleError(f"module: the repository has no folder {self.subfolder!r}.", field="module")
            return module
        return _copy_with_neighbours(Path(self.location).resolve(), folder / "module")

    def _clone(
        self, target: Path, env: Mapping[str, str], redact: Callable[[str], str], remember: Callable[[str], None]
    ) -> Path:
        if shutil.which("git", path=env.get("PATH")) is None:
            raise ModuleError(
                "module: git is needed for a module from a repository, and is not on this worker.", field="module"
            )
        url, credentials = _without_credentials(self.location)
        protocols = env.get("GIT_ALLOW_PROTOCOL") or _PROTOCOLS
        self._check_protocol(url, protocols)
        config = {"submodule.recurse": "false", "fetch.recurseSubmodules": "false"}
        if credentials:
            # A header in the environment: git hands a URL with a password on to a helper, in its argv.
            remember(credentials.partition(":")[2] or credentials)
            header = base64.b64encode(credentials.encode()).decode()
            remember(header)
            config[f"http.{url}.extraHeader"] = f"Authorization: Basic {header}"
            # git sends the header to whomever it is redirected to.
            config["http.followRedirects"] = "false"
        settings = _git_environment(env, protocols, config)

        def git(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["git", *arguments],
                env=settings,
                capture_output=True,
                text=True,
                timeout=_GIT_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
            )

        wanted = self.ref or "HEAD"
        git("init", "-q", str(target))
        fetched = git("-C", str(target), "fetch", "-q", "--depth=1", "--no-tags", "--", url, wanted)
        if fetched.returncode != 0 and self.ref:
            # A server may refuse a single commit: then everything.
            everything = git(
                "-C", str(target), "fetch", "-q", "--tags", "--", url, "+refs/heads/*:refs/remotes/origin/*"
            )
            found = (
                everything.returncode == 0
                and git("-C", str(target), "rev-parse", "--verify", "-q", f"{self.ref}^{{commit}}").returncode == 0
            )
            if not found:
                raise self._clone_failed(redact((fetched.stderr or everything.stderr).strip()))
            done = git("-C", str(target), "checkout", "-q", "--detach", self.ref)
        elif fetched.returncode != 0:
            raise self._clone_failed(redact(fetched.stderr.strip()))
        else:
            done = git("-C", str(target), "checkout", "-q", "--detach", "FETCH_HEAD")
        if done.returncode != 0:
            raise self._clone_failed(redact(done.stderr.strip()))
        (target / COMMIT).write_text(git("-C", str(target), "rev-parse", "HEAD").stdout.strip(), encoding="utf-8")
        shutil.rmtree(target / ".git")
        return target

    def _check_protocol(self, url: str, allowed: str) -> None:
        scheme, separator, _ = url.partition("://")
        if not separator:
            scheme = "file" if url.startswith(("/", ".", "~")) or ":" not in url else "ssh"
            if "::" in url:
                scheme = url.partition("::")[0]
        if scheme not in allowed.split(":"):
            raise ModuleError(
                f"module: {self.public} is fetched by {scheme!r}, which does not check who answers"
                f" (allowed: {', '.join(allowed.split(':'))}).",
                hint="Use https or ssh. If it is meant, say so by git's own variable, in the task's `env` or on the"
                f' worker: GIT_ALLOW_PROTOCOL="{allowed}:{scheme}".',
                field="module",
            )

    def _clone_failed(self, why: str) -> ModuleError:
        return ModuleError(
            f"module: {self.public} can't be fetched: {why}",
            hint="Check the address, the ref, and that the worker may read the repository (SSH key,"
            " credential helper, or a token in the URL). With a token in the URL no redirect is followed: give the"
            " address that it leads to.",
            field="module",
        )


def bundled_modules() -> list[str]:
    """Give the names of the modules in this installation."""
    try:
        return sorted(path.name for path in bundled("terraform", "modules").iterdir() if any(path.glob("*.tf")))
    except FileNotFoundError:
        return []


def _git_environment(env: Mapping[str, str], protocols: str, config: Mapping[str, str]) -> dict[str, str]:
    """Give git's environment: it asks nobody, and takes these settings beside those that it is given already."""
    told = env.get("GIT_CONFIG_COUNT", "")
    before = int(told) if told.isdigit() else 0
    return {
        **env,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_ASKPASS": "true",
        "GIT_SSH_COMMAND": env.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes"),
        "GIT_CONFIG_COUNT": str(before + len(config)),
        **{f"GIT_CONFIG_KEY_{number}": name for number, name in enumerate(config, before)},
        **{f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(config.values(), before)},
    }


def _without_credentials(url: str) -> tuple[str, str]:
    if "://" not in url or not url.startswith("http"):
        return url, ""
    parts = urlsplit(url)
    userinfo, _, host = parts.netloc.rpartition("@")
    name, _, password = userinfo.partition(":")
    return urlunsplit(parts._replace(netloc=host)), f"{unquote(name)}:{unquote(password)}" if userinfo else ""


def _copy_with_neighbours(module: Path, target: Path) -> Path:
    """Copy a module with the local modules outside of it that it uses (``source = "../network"``)."""
    wanted: dict[Path, None] = {}
    queue = [module]
    while queue:
        folder = queue.pop()
        if any(folder == other or other in folder.parents for other in wanted):
            continue
        wanted[folder] = None
        for file in folder.rglob("*.tf"):
            if ".terraform" in file.parts:
                continue
            for match in _LOCAL_SOURCE.finditer(file.read_text(encoding="utf-8", errors="replace")):
                other = (file.parent / match.group(1)).resolve()
                if other.is_dir():
                    queue.append(other)
    base = Path(os.path.commonpath([str(folder) for folder in wanted]))
    for folder in sorted(wanted):
        shutil.copytree(folder, target / folder.relative_to(base), ignore=_LEFT_OUT, dirs_exist_ok=True, symlinks=False)
    copied = target / module.relative_to(base)
    for path in [target, *target.rglob("*")]:
        if path.is_dir():
            path.chmod(0o700)
    return copied
