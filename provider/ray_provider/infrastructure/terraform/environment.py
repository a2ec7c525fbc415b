"""The environment that Terraform runs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ray_provider._shared.child_environment import inherited

#: Names and beginnings of names that don't reach Terraform and its plugins, and why.
_DROPPED = {
    "TF_LOG": "it writes secrets into the log",
    "TF_CLI_ARGS": "it changes the commands that are run",
    "TF_WORKSPACE": "the workspace is an argument",
    "TF_DATA_DIR": "each run has a folder of its own",
    "TF_REATTACH_PROVIDERS": "",
}


def build_environment(
    extra: Mapping[str, str],
    *,
    temporary: Path | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Give the whole environment of a command.

    :param extra: variables on top of the process' own; they win.
    :param temporary: where Terraform and its plugins put their temporary files.
    :param warn: told what is left out and why.
    """
    env: dict[str, str] = {}
    for name, value in inherited().items():
        why = next((why for start, why in _DROPPED.items() if name.startswith(start)), None)
        if why is None:
            env[name] = value
        elif why:
            warn(f"The environment variable {name} is not passed on to Terraform: {why}.")
    env |= extra
    config = env.get("TF_CLI_CONFIG_FILE")
    if config and not Path(config).expanduser().is_file():
        warn(f"TF_CLI_CONFIG_FILE points to {config}, which does not exist: it is ignored.")
        del env["TF_CLI_CONFIG_FILE"]
    env |= {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1"}
    if temporary is not None:
        env["TMPDIR"] = str(temporary)
    return env


def default_plugin_cache(env: Mapping[str, str]) -> Path | None:
    """Give a folder in which providers are kept between runs, unless the user has settings of their own for that.

    Without it each run downloads its providers again, hundreds of megabytes.

    :param env: Terraform's environment.
    """
    home = Path(env.get("HOME") or "/").expanduser()
    own = (home / ".terraformrc", home / ".tofurc", home / ".config" / "opentofu" / "tofurc")
    if env.get("TF_CLI_CONFIG_FILE") or env.get("TF_PLUGIN_CACHE_DIR") or any(path.is_file() for path in own):
        return None
    cache = Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "airflow-ray" / "terraform-providers"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return cache
