# SPDX-License-Identifier: Apache-2.0
"""A container image made on the spot: busybox, nothing else, so that no registry is asked for anything.

Knows the layout of `docker save` archives, which containerd and podman import. Must never run anything. One image
serves as the pause container and as the workload.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

NAME = "docker.io/vpccni/box:1"
BUSYBOX = Path("/usr/bin/busybox")
APPLETS = ("sh", "sleep", "hostname", "ip", "ping", "nc", "grep", "httpd", "cat", "sysctl")
# The page says who served it and whom the server saw.
PAGE = b'#!/bin/sh\nprintf \'Content-Type: text/plain\\r\\n\\r\\n%s saw %s\\n\' "$(hostname)" "$REMOTE_ADDR"\n'
PAGE_PATH = "/cgi-bin/who"
# In a shell of the image. Its wget looks names up by libraries that are not there.
FETCH = f"printf 'GET {PAGE_PATH} HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {{address}} {{port}} | grep saw"
FOREVER_S = "100000"


def write_box_image(path: Path) -> None:
    """Write the archive; its content depends on busybox alone."""
    layer = _layer()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox"], "Cmd": ["sleep", FOREVER_S], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    encoded = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(encoded).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        for name, content in (
            (config_name, encoded),
            ("layer.tar", layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            _file(archive, name, content)


def write_pages(folder: Path) -> None:
    """The image's pages, for a server outside of a container."""
    page = folder / PAGE_PATH.lstrip("/")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_bytes(PAGE)
    page.chmod(0o755)


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("bin", "tmp", "www", "www/cgi-bin"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        _file(archive, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        _file(archive, f"www{PAGE_PATH}", PAGE, 0o755)
    return buffer.getvalue()


def _file(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
