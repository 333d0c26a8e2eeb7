# SPDX-License-Identifier: Apache-2.0
"""ENIConfigs: in which subnet, with which security groups, the ENIs of pods are made under custom networking.

Knows the manifest of `crd.k8s.amazonaws.com/v1alpha1` and reads it from a directory of YAML files, afresh each time, so
that a corrected file counts at once. Must never know EC2. `ipamd.placement` asks for the node's own one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vpccni.errors import InputError, VpcCniError

API_VERSION, KIND = "crd.k8s.amazonaws.com/v1alpha1", "ENIConfig"


@dataclass(frozen=True, slots=True)
class EniConfig:
    """One ENIConfig; without `security_groups` those of the primary ENI count."""

    name: str
    subnet_id: str
    security_groups: tuple[str, ...] = ()


class EniConfigs:
    """The ENIConfigs of a directory. `name` is the one of this node."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self.name = directory, name

    def mine(self) -> EniConfig:
        """This node's. Raises VpcCniError with code `eniconfig-missing` or `eniconfig-invalid`."""
        found = {config.name: config for config in self._all()}
        if self.name in found:
            return found[self.name]
        raise VpcCniError(
            "make an ENI for pods",
            f"there is no ENIConfig named {self.name}",
            code="eniconfig-missing",
            retryable=True,
            hint=f"add an ENIConfig {self.name} to {self._directory}, or name another in VPCCNI_ENI_CONFIG_NAME;"
            " the daemon looks again by itself",
            evidence={"directory": self._directory, "present": " ".join(sorted(found)) or "none"},
        )

    def _all(self) -> Iterator[EniConfig]:
        try:
            files = sorted(path for path in self._directory.iterdir() if path.suffix in (".yaml", ".yml"))
            texts = [(path, path.read_text(encoding="utf-8")) for path in files]
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise _invalid(self._directory, str(error)) from error
        for path, text in texts:
            yield from parse(text, path)


def parse(text: str, path: Path) -> list[EniConfig]:
    """The ENIConfigs of one file, which may hold several documents; those of other kinds are left out."""
    import yaml  # only custom networking needs it

    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise _invalid(path, " ".join(str(error).split())) from error
    return [_config(each, path) for each in documents if isinstance(each, dict) and each.get("kind") == KIND]


def _config(document: dict[str, object], path: Path) -> EniConfig:
    if document.get("apiVersion") != API_VERSION:
        raise _invalid(path, f"apiVersion is {document.get('apiVersion')!r} instead of {API_VERSION}")
    metadata, spec = document.get("metadata"), document.get("spec")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    subnet = spec.get("subnet") if isinstance(spec, dict) else None
    groups = (spec.get("securityGroups") or []) if isinstance(spec, dict) else None
    if not isinstance(name, str) or not name:
        raise _invalid(path, "metadata.name is missing")
    if not isinstance(subnet, str) or not subnet:
        raise _invalid(path, f"spec.subnet of {name} is missing")
    if not isinstance(groups, list) or not all(isinstance(group, str) and group for group in groups):
        raise _invalid(path, f"spec.securityGroups of {name} is no list of ids")
    return EniConfig(name, subnet, tuple(groups))


def _invalid(path: Path, why: str) -> InputError:
    return InputError(
        "read ENIConfigs",
        f"{path}: {why}",
        code="eniconfig-invalid",
        retryable=True,
        hint="correct the file; the daemon reads it again by itself",
        evidence={"file": path},
    )
