# SPDX-License-Identifier: Apache-2.0
"""The transport of the instance metadata service, version 2: tokens, retries, one kept connection.

Knows HTTP and IMDSv2 sessions (EC2 user guide, "Instance Metadata Service"). Must never know what the paths mean;
that is `aws.imds`, its only caller. Safe to use from several threads: requests are made one after the other.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from vpccni.errors import CloudError

TOKEN_PATH = "/latest/api/token"
TOKEN_HEADER = "X-aws-ec2-metadata-token"
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_TTL_S = 300
_NO_TOKENS = frozenset({403, 404, 405})  # answers to the token request that mean: version 1 only
_TRANSIENT = frozenset({429, 500, 502, 503, 504})
_TOKEN = re.compile(r"[!-~]{1,1024}")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_MAX_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class Timing:
    """How long to wait: per socket operation, and how often and how long in all for one read."""

    socket_s: float = 1.0
    attempts: int = 10
    total_s: float = 5.0


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    text: str
    token_ttl_s: str = ""


class MetadataSession:
    """Reads texts by path. `now` is a monotonic time in seconds, `sleep` waits so many."""

    def __init__(
        self,
        endpoint: str,
        *,
        timing: Timing | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(endpoint)
        self._endpoint = endpoint
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._timing = timing or Timing()
        self._now, self._sleep = now, sleep
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._token, self._token_until = "", 0.0
        self._version_1 = False

    def close(self) -> None:
        """Close the kept connection; the next read opens another."""
        with self._lock:
            self._disconnect()

    def read(self, path: str) -> str | None:
        """The text at an absolute path, None when there is none (404).

        Raises CloudError with codes imds-unreachable, imds-denied or imds-failed.
        """
        with self._lock:
            return self._read(path)

    def _read(self, path: str) -> str | None:
        deadline = self._now() + self._timing.total_s
        pause_s, renewed, last = _FIRST_PAUSE_S, False, ""
        for attempt in range(self._timing.attempts):
            if attempt and (last or not renewed):
                if self._now() + pause_s > deadline:
                    break
                self._sleep(pause_s)
                pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
            try:
                answer = self._request("GET", path, self._session_header())
            except (OSError, http.client.HTTPException) as error:
                last = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                self._disconnect()
                continue
            if answer.status == 200:
                return answer.text
            if answer.status == 404:
                return None
            if answer.status == 401 and not renewed:
                # The token expired early (the service restarted), or version 1 was switched off meanwhile.
                self._token, self._version_1, renewed, last = "", False, True, ""
            elif answer.status in _TRANSIENT:
                last = f"HTTP {answer.status}"
            else:
                raise self._denied(path, answer.status)
        raise self._unreachable(path, last or "no time left")

    def _session_header(self) -> dict[str, str]:
        """The header that carries the token, which is renewed when a tenth of its life is left."""
        if not self._version_1 and (not self._token or self._now() >= self._token_until):
            self._renew()
        return {TOKEN_HEADER: self._token} if self._token else {}

    def _renew(self) -> None:
        asked_at = self._now()
        self._token = ""
        try:
            answer = self._request("PUT", TOKEN_PATH, {TTL_HEADER: str(TOKEN_TTL_S)})
        except TimeoutError:
            # The answer's hop limit may be too small for this network. Version 1 has none, and if it is switched
            # off the read that follows gets 401, which comes back here.
            self._disconnect()
            self._version_1 = True
            return
        if answer.status in _NO_TOKENS:
            self._version_1 = True
            return
        if answer.status in _TRANSIENT:
            raise ConnectionError(f"HTTP {answer.status} for a token")
        token = answer.text.strip()
        if answer.status != 200 or not _TOKEN.fullmatch(token):  # whatever else answered, no header may carry it
            raise self._denied(TOKEN_PATH, answer.status)
        ttl_s = int(answer.token_ttl_s) if answer.token_ttl_s.isdecimal() else TOKEN_TTL_S
        self._token, self._token_until = token, asked_at + 0.9 * ttl_s

    def _request(self, method: str, path: str, headers: dict[str, str]) -> _Answer:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timing.socket_s)
        self._connection.request(method, path, headers={"Accept": "*/*", **headers})
        response = self._connection.getresponse()
        body = response.read(_MAX_BODY)
        if response.will_close or not response.isclosed():
            self._disconnect()
        return _Answer(response.status, body.decode(errors="replace"), response.getheader(TTL_HEADER) or "")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _denied(self, path: str, status: int) -> CloudError:
        hint = {
            401: "a session token is required and did not arrive: raise the hop limit of token answers to 2,"
            " aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2",
            403: "switch the endpoint on: aws ec2 modify-instance-metadata-options --http-endpoint enabled",
        }.get(status, "check what answers at this address, it may not be the metadata service")
        evidence = {"endpoint": self._endpoint, "path": path, "status": status}
        denied = status in (401, 403)
        code = "imds-denied" if denied else "imds-failed"
        return CloudError(
            "read instance metadata", f"{path} was answered with HTTP {status}",
            aws_code=str(status), code=code, hint=hint, evidence=evidence, retryable=not denied,
        )  # fmt: skip

    def _unreachable(self, path: str, why: str) -> CloudError:
        return CloudError(
            "read instance metadata", f"no usable answer for {path} ({why})",
            code="imds-unreachable",
            hint="check the route to the address, that the endpoint is enabled, and that the hop limit of its token"
            " answers reaches this network namespace (1 for the host's, 2 for a pod's)",
            evidence={"endpoint": self._endpoint, "path": path},
        )  # fmt: skip
