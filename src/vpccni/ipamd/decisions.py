# SPDX-License-Identifier: Apache-2.0
"""The daemon's journal of decisions: what was refused, awaited, tried, failed or corrected, when, and because of what.

Knows a bounded number of entries in memory and the link from each to its cause. Must never decide, call or write
anything. The API, the engine and the EC2 calls note what they did with one call each; `vpccni why` and the
introspection API read it. Single-threaded, as all state of the daemon.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Literal

from vpccni.core.steps import Step, Wait
from vpccni.errors import CloudError, InputError, VpcCniError

Kind = Literal["refusal", "wait", "step", "failure", "ec2", "start", "correction"]

CAPACITY = 2000
TEXT_LIMIT = 1000  # characters of a sentence or of one piece of evidence
CHAIN_LIMIT = 10
# Waits that a refusal of EC2's brought about; the others explain themselves.
_OWN_REASON = frozenset({"eni-limit", "max-eni", "paused", "cordoned", "shrink-interval", "eni-young", "needed-lately"})
_WAITS_OF = {
    "subnet-hold": "AssignBlocks",
    "subnet-fragmented": "AssignBlocks",
    "eni-full": "AssignBlocks",
    "attach-blocked": "AttachEni",
}
# Refusals that stay true although the step that met them ends in order: something else is tried next.
_LASTING = frozenset({"subnet-empty", "subnet-fragmented", "address-limit"})
# Waits before giving something back: no pod waits for these.
IDLE_WAITS = frozenset({"shrink-interval", "eni-young", "needed-lately"})

_step_of_this_task: ContextVar[int] = ContextVar("vpccni_step", default=0)


@dataclass(slots=True)
class Decision:
    """One entry. Times are Unix seconds; `because` is the `seq` of its cause, 0 without one.

    An entry that repeats is counted in `times` and moves `last_at`. `ended_at`: a wait is over, a step is done, or a
    refused pod was served. `until`: when a wait ends by itself.
    """

    seq: int
    kind: Kind
    code: str
    at: float
    last_at: float
    what: str
    evidence: dict[str, str] = field(default_factory=dict)
    hint: str = ""
    pod: str = ""
    container: str = ""
    because: int = 0
    times: int = 1
    until: float | None = None
    ended_at: float | None = None
    outcome: str = ""


class Decisions:
    """The ring of entries. `now` is the daemon's clock."""

    def __init__(self, now: Callable[[], float], capacity: int = CAPACITY) -> None:
        self._now, self._capacity = now, capacity
        self._entries: OrderedDict[int, Decision] = OrderedDict()  # the least recently touched first
        self._last_seq = 0
        self._refused: dict[str, int] = {}  # pod -> its open refusal
        self._waits: dict[str, int] = {}  # code -> its open wait
        self._steps: dict[int, None] = {}  # steps that run
        self._failures: dict[str, int] = {}  # kind of step -> why it failed last, until one succeeds; the newest last
        self._start = 0  # what the start waits for

    # -- noting ----------------------------------------------------------------------------------------------------

    def refused(self, error: VpcCniError, pod: str, container: str = "") -> None:
        """A request of a pod was refused or failed; the cause is what the daemon waits for or does at this moment."""
        because = self._cause_of_refusal(error)
        known = self._entries.get(self._refused.get(pod, 0))
        if known is None or known.code != error.error_code or not pod:
            known = self._add("refusal", error.error_code, str(error), because)
            known.pod = _short(pod)
        else:
            known.because = because or known.because  # the cause may have been tried again meanwhile
            self._again(known, str(error))
        known.hint, known.container, known.evidence = _short(error.hint), _short(container), _evidence(error.evidence)
        if pod:
            self._refused[pod] = known.seq

    def served(self, pod: str) -> None:
        """A pod got its address: an earlier refusal is over."""
        self._end(self._refused.pop(pod, 0), "the pod got an address")

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """While a step runs: its start, its end or failure, and EC2's refusals of its calls."""
        entry = self._add("step", type(step).__name__, str(step))
        entry.outcome = "running"
        self._steps[entry.seq] = None
        token = _step_of_this_task.set(entry.seq)
        try:
            yield
        except VpcCniError as error:
            self._end(entry.seq, "failed")
            if self._failure_in(entry) is None:  # EC2 itself did not refuse: the step's own reason is the cause
                self._fail(entry, self._noted(error, "failure", entry.seq))
            raise
        except BaseException:
            self._end(entry.seq, "given up")
            raise
        else:
            failure = self._failure_in(entry)
            lasting = failure is not None and failure.code in _LASTING
            self._end(entry.seq, "EC2 could not give what was asked for" if lasting else "done")
            if not lasting:
                self._failures.pop(entry.code, None)
        finally:
            self._steps.pop(entry.seq, None)
            _step_of_this_task.reset(token)

    def ec2_failed(self, error: CloudError) -> None:
        """EC2 refused a call, or did not answer. Repeated refusals of one kind within a step are counted."""
        step = self._entries.get(_step_of_this_task.get())
        seq = self._noted(error, "ec2", step.seq if step else 0)
        if step is not None:  # what fails outside of steps (reconcile, tags) keeps no pod waiting
            self._fail(step, seq)

    def waiting(self, waits: Sequence[Wait]) -> None:
        """What the plan waits for at this moment; waits that are no longer named are over."""
        named = {wait.code: wait for wait in waits}
        for code in [code for code in self._waits if code not in named]:
            self._end(self._waits.pop(code), "over")
        for code, wait in named.items():
            because = 0 if code in _OWN_REASON else self._cause_of_wait(code)
            known = self._entries.get(self._waits.get(code, 0))
            if known is None or (because and because != known.because):
                self._end(self._waits.get(code, 0), "over")
                known = self._add("wait", code, wait.reason, because)
                self._waits[code] = known.seq
            known.what, known.until = _short(wait.reason), wait.until

    def held_up(self, what: str, error: VpcCniError) -> None:
        """The start of the daemon waits for something."""
        self._start = self._noted(error, "start", 0, f"the start waits for {what}: {error}")

    def corrected(self, kind: str) -> None:
        """The reconciler changed pool or kernel; `kind` is the correction's name."""
        self._add("correction", kind, f"the reconciler made a correction: {kind}").ended_at = self._now()

    # -- reading ---------------------------------------------------------------------------------------------------

    def newest(self, *, pod: str = "", since: float = 0.0, limit: int = CAPACITY) -> list[Decision]:
        """At most `limit` entries that happened after `since`, oldest first; with `pod` its own and their causes."""
        own = [each for each in self._entries.values() if (not pod or each.pod == pod) and each.last_at > since]
        chosen = {each.seq: each for each in sorted(own, key=_moment)[-limit:]} if limit > 0 else {}
        if pod:
            for each in list(chosen.values()):
                chosen.update((cause.seq, cause) for cause in self.causes(each))
        return sorted(chosen.values(), key=_moment)

    def causes(self, entry: Decision) -> list[Decision]:
        """The causes of an entry, nearest first."""
        found: list[Decision] = []
        while len(found) < CHAIN_LIMIT and (cause := self._entries.get(entry.because)) is not None:
            found.append(cause)
            entry = cause
        return found

    def document(self, query: Mapping[str, str]) -> dict[str, object]:
        """`/v1/decisions?pod=NAMESPACE/NAME&since=UNIX&limit=N`. Raises InputError for numbers that are none."""
        try:
            since, limit = float(query.get("since") or 0), int(query.get("limit") or CAPACITY)
        except ValueError:
            raise InputError("list decisions", "since is Unix seconds, limit a whole number") from None
        chosen = self.newest(pod=query.get("pod", ""), since=since, limit=limit)
        return {
            "now": self._now(),
            "capacity": self._capacity,
            "dropped": self._last_seq - len(self._entries),
            "decisions": [asdict(each) for each in chosen],
        }

    # -- inside ----------------------------------------------------------------------------------------------------

    def _cause_of_refusal(self, error: VpcCniError) -> int:
        if error.error_code.startswith("daemon-"):
            return self._start
        if not error.can_retry or error.error_code in ("all-cooling", "address-unconfirmed"):
            return 0
        telling = [self._entries[seq] for code, seq in self._waits.items() if code not in IDLE_WAITS]
        # The wait that gave the refusal its code, or that EC2's refusal of that code brought about.
        for wait in telling:
            if error.error_code in (wait.code, *(cause.code for cause in self.causes(wait))):
                return wait.seq
        if telling:
            return telling[0].seq
        failures = [self._entries[seq] for seq in self._failures.values() if seq in self._entries]
        again = [failure.seq for failure in failures if failure.because in self._steps]  # a running step calls again
        return next(iter(again), 0) or next(iter(self._steps), 0)

    def _cause_of_wait(self, code: str) -> int:
        return self._failures.get(_WAITS_OF.get(code, ""), 0) or next(reversed(self._failures.values()), 0)

    def _fail(self, step: Decision, failure: int) -> None:
        self._failures.pop(step.code, None)
        self._failures[step.code] = failure

    def _failure_in(self, step: Decision) -> Decision | None:
        failure = self._entries.get(self._failures.get(step.code, 0))
        return failure if failure is not None and failure.because == step.seq else None

    def _noted(self, error: VpcCniError, kind: Kind, because: int, what: str = "") -> int:
        text = what or str(error)
        known = next(reversed(self._entries.values()), None)
        if known is not None and (known.kind, known.code, known.because) == (kind, error.error_code, because):
            self._again(known, text)
        else:
            known = self._add(kind, error.error_code, text, because)
        known.hint, known.evidence = _short(error.hint), _evidence(error.evidence)
        if isinstance(error, CloudError) and error.aws_code:
            known.evidence["aws_code"] = error.aws_code
        return known.seq

    def _add(self, kind: Kind, code: str, what: str, because: int = 0) -> Decision:
        self._last_seq += 1
        now = self._now()
        entry = Decision(self._last_seq, kind, code, now, now, _short(what), because=because)
        self._entries[entry.seq] = entry
        self._touch(entry)
        while len(self._entries) > self._capacity:
            self._forget(self._entries.popitem(last=False)[1])
        return entry

    def _again(self, entry: Decision, what: str) -> None:
        entry.times, entry.last_at, entry.what, entry.ended_at = entry.times + 1, self._now(), _short(what), None
        self._touch(entry)

    def _touch(self, entry: Decision) -> None:
        """Entries that explain a fresh one are kept as long as it is."""
        for each in [*reversed(self.causes(entry)), entry]:
            self._entries.move_to_end(each.seq)

    def _forget(self, entry: Decision) -> None:
        for index, name in ((self._refused, entry.pod), (self._waits, entry.code)):
            if index.get(name) == entry.seq:
                del index[name]
        self._steps.pop(entry.seq, None)

    def _end(self, seq: int, outcome: str) -> None:
        entry = self._entries.get(seq)
        if entry is not None:
            entry.ended_at = self._now()
            entry.last_at = max(entry.last_at, entry.ended_at) if entry.kind == "step" else entry.last_at
            entry.outcome = _short(outcome)


def _moment(entry: Decision) -> tuple[float, int]:
    return entry.last_at, entry.seq


def _short(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 3]}..."


def _evidence(evidence: Mapping[str, object]) -> dict[str, str]:
    return {_short(name): _short(str(value)) for name, value in evidence.items()}
