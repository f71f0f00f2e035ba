"""An endpoint as a program has it: made by `hpcvlm.launch` or `hpcvlm.attach`."""

from __future__ import annotations

import atexit
import logging
import os
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from hpcvlm.endpoints.endpoint import KEY_NAME, read_key
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.api_events import EndpointEvent, EndpointStatus, EndpointWarning, OnEvent
from hpcvlm.ops.api_way import Way
from hpcvlm.plan.model import LaunchRequest

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI  # type: ignore[import-not-found,unused-ignore]

    from hpcvlm.endpoints.endpoint import Endpoint as Address
    from hpcvlm.ops.api_client import Picture
    from hpcvlm.ops.api_keeper import Keeper
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.endpoints import Row
    from hpcvlm.probe.model import CaseResult, ProbeReport
    from hpcvlm.submit.record import JobRecord
    from hpcvlm.watch.loop import Glance

OnExit = Literal["stop", "drain", "leave"]
# An answer of a few hundred tokens, on a busy engine.
_ASK_TIMEOUT_S = 300.0
_log = logging.getLogger("hpcvlm")


class Endpoint:
    """An endpoint that a program uses; made by `launch` or `attach`.

    The key is in no attribute and in no representation: `key` reads its file.
    """

    def __init__(
        self,
        name: str,
        context: Context,
        *,
        request: LaunchRequest | None = None,
        force: tuple[str, ...] = (),
        on_exit: OnExit = "leave",
        queue_timeout_s: float | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self._name = name
        self._ctx = context
        self._request = request
        self._force = force
        self._on_exit: OnExit = on_exit
        self._queue_timeout_s = queue_timeout_s
        self._on_event = on_event
        self._record: JobRecord | None = None
        self._way = Way(context, self._look_for_address)
        self._keeper: Keeper | None = None
        self._phase = ""
        # A child of fork has this object, but the endpoint is its parent's.
        self._owner = os.getpid()

    def __repr__(self) -> str:
        state = "not launched" if not self._name else "attached" if not self._owns else "launched"
        return f"<hpcvlm.Endpoint {self._name or self._model_asked} ({state})>"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Another process gets the endpoint without its end: `attach`."""
        from hpcvlm.ops.api import attach

        return attach, (self.name,)

    @property
    def name(self) -> str:
        """What ``hpcvlm status`` and the others call it."""
        if not self._name:
            raise _not_launched(self._model_asked)
        return self._name

    @property
    def model(self) -> str:
        """The id under which the engine serves it, for requests."""
        return self._find_record().served_name

    @property
    def job_id(self) -> str:
        """Slurm's number of the job, or a process id on this machine."""
        return self._find_record().job_id

    @property
    def folder(self) -> Path:
        """The job's folder: logs, script, plan."""
        return Path(self._find_record().folder)

    @property
    def url(self) -> str:
        """``http://HOST:PORT``.

        Raises:
            HpcvlmError: ``endpoint-not-ready``; where the engine listens for its own node alone,
                what keeps this machine from it, such as ``ssh-failed``.
        """
        return self._way.find(self.name, for_any_client=True).url

    @property
    def base_url(self) -> str:
        """`url` with ``/v1``, which OpenAI's clients want."""
        return self._way.find(self.name, for_any_client=True).base_url

    @property
    def key_file(self) -> Path:
        """The file that holds the key; only its owner can read it."""
        return self.folder / KEY_NAME

    @property
    def key(self) -> str:
        """The key, read from its file at this moment: it may be changed while the job runs."""
        return read_key(self.key_file)

    @property
    def ends(self) -> float | None:
        """Seconds since the epoch at which its time is over; None when unknown."""
        return self.status().ends

    def start(self, *, wait: bool = True) -> Self:
        """Submit the job, if it was not yet, and wait until it has proved that it can see.

        Args:
            wait: False to return as soon as it is submitted.

        Raises:
            HpcvlmError: what refuses a launch; ``start-failed``; ``timed-out`` in the queue. The
                job is ended then as on exit.
        """
        if self._way.is_known:
            return self
        try:
            if self._record is None and self._request is not None:
                self._submit(self._request)
            return self.wait() if wait else self
        except BaseException:
            self._leave()
            raise

    def wait(self) -> Self:
        """Wait until it is ready; at once when it is.

        Raises:
            HpcvlmError: ``start-failed`` with the cause, ``timed-out``.
        """
        from hpcvlm.ops.endpoints import took_over, wait

        after: JobRecord | None = self._find_record()
        while after is not None:
            row = wait(
                after, self._ctx, on_glance=self._glance, queue_timeout_s=self._queue_timeout_s
            )
            after = took_over(row, self._ctx)
        if row.endpoint is None:
            raise _not_ready(row, "timed-out")
        self._way.learn(row.endpoint)
        return self

    def status(self) -> EndpointStatus:
        """What is true of it now."""
        from hpcvlm.ops.endpoints import describe

        row = self._look()
        state = type(row.verdict).__name__.lower()
        return EndpointStatus(state, describe(row.verdict), row.ends)

    def stop(self, *, drain: bool = False) -> None:
        """End it, and wait until its job is gone; nothing happens when it is.

        Args:
            drain: let the requests that run be answered first.

        Raises:
            HpcvlmError: ``stop-failed``, ``slurm-unavailable``: it may still run, and its lease
                runs out.
        """
        from hpcvlm.endpoints.registry import find_endpoint
        from hpcvlm.ops.stop import drain_endpoint, stop_endpoint

        if not self._name:
            return
        jobs = find_endpoint(self._ctx.settings.jobs, self._name)
        self._let_go()
        if drain:
            drain_endpoint(jobs, self._ctx)
        else:
            stop_endpoint(jobs, self._ctx)
        self._record = None

    def ask(
        self,
        question: str,
        image: Picture | Sequence[Picture] | None = None,
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        timeout: float = _ASK_TIMEOUT_S,
        **options: object,
    ) -> str:
        """The engine's answer to a question about no, one or several pictures.

        Args:
            question: what is asked.
            image: a path, an address, the bytes of a picture's file, a picture of Pillow, or
                several of them.
            max_tokens: longest answer.
            temperature: 0 for the most probable answer.
            timeout: seconds that one answer may take.
            options: further keys of the request, as OpenAI and vLLM know them.

        Raises:
            HpcvlmError: ``image-unreadable``, ``request-refused``, ``request-failed``,
                ``endpoint-not-ready``.
        """
        from hpcvlm.ops.api_client import chat, messages

        body = {
            "messages": messages(question, _several(image)),
            "max_tokens": max_tokens,
            "temperature": temperature,
            **options,
        }
        answer = chat(self._reach, body, timeout)
        return str(answer["choices"][0]["message"]["content"] or "")

    def client(self, **options: Any) -> OpenAI:  # noqa: ANN401 - passed on to openai
        """A client of the openai package; `model` is what its requests name.

        Raises:
            HpcvlmError: ``package-missing``, ``endpoint-not-ready``.
        """
        from hpcvlm.ops.api_client import openai_package, transport_options

        package = openai_package()
        address, key = self._reach()
        http = package.DefaultHttpxClient(**transport_options(address))
        made: OpenAI = package.OpenAI(
            **{"base_url": address.base_url, "api_key": key, "http_client": http, **options}
        )
        return made

    def async_client(self, **options: Any) -> AsyncOpenAI:  # noqa: ANN401
        """An asynchronous client of the openai package.

        Raises:
            HpcvlmError: ``package-missing``, ``endpoint-not-ready``.
        """
        from hpcvlm.ops.api_client import async_transport_options, openai_package

        package = openai_package()
        address, key = self._reach()
        http = package.DefaultAsyncHttpxClient(**async_transport_options(address))
        made: AsyncOpenAI = package.AsyncOpenAI(
            **{"base_url": address.base_url, "api_key": key, "http_client": http, **options}
        )
        return made

    def smoke_test(
        self,
        *,
        image: str | PathLike[str] | None = None,
        require_naming: bool = True,
        timeout: float = 120.0,
    ) -> ProbeReport:
        """Prove again that it sees: text, pictures by every way, streaming.

        Args:
            image: a picture of one's own that is asked about as well.
            require_naming: whether shapes and colours must be named, or only be taken in.
            timeout: seconds that one answer may take.

        Raises:
            HpcvlmError: ``endpoint-not-ready``.
        """
        from hpcvlm.ops.smoke import smoke_test, target_of

        address = self._way.find(self.name, for_any_client=True)
        target = target_of(self._find_record(), address)
        results: list[CaseResult] = []
        return smoke_test(
            target,
            image=None if image is None else os.fspath(image),
            require_naming=require_naming,
            timeout_s=timeout,
            on_result=results.append,
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    @property
    def _owns(self) -> bool:
        return self._request is not None

    @property
    def _model_asked(self) -> str:
        return self._request.model if self._request is not None else ""

    def _submit(self, request: LaunchRequest) -> None:
        from hpcvlm.ops.api_keeper import Keeper
        from hpcvlm.ops.launch import launch as submit
        from hpcvlm.submit.job import InterruptedAfterSubmit

        interrupted = False
        try:
            record = submit(request, self._ctx, force=self._force)
        except InterruptedAfterSubmit as interrupt:
            record, interrupted = interrupt.record, True
        self._record, self._name = record, record.shown_name
        self._keeper = Keeper(record, request.lease_s, self._ctx.clock, self._tell)
        if interrupted:
            raise KeyboardInterrupt
        self._keeper.start()
        atexit.register(self._leave)
        for line in (*record.notes, *record.warnings):
            _log.info("%s: %s", self._name, line)
        self._tell(
            EndpointEvent("submitted", self._name, f"{self._name}: job {record.job_id} submitted")
        )

    def _leave(self) -> None:
        """What `on_exit` says; never more than a warning, since it runs in finally blocks."""
        if os.getpid() != self._owner:
            return
        if not self._owns or self._record is None:
            self._way.close()
            return
        if self._on_exit == "leave":
            self._let_go()
            return
        try:
            self.stop(drain=self._on_exit == "drain")
        except HpcvlmError as error:
            remedy = f" ({error.remedy})" if error.remedy else ""
            warnings.warn(f"{error.sentence}{remedy}", EndpointWarning, stacklevel=3)

    def _let_go(self) -> None:
        """End the lease, the watching and the relay."""
        atexit.unregister(self._leave)
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
        self._way.close()

    def _find_record(self) -> JobRecord:
        """The job that the name means now; a successor takes it over from its predecessor."""
        from hpcvlm.endpoints.registry import find_record

        if not self._name:
            raise _not_launched(self._model_asked)
        return find_record(self._ctx.settings.jobs, self._name)

    def _look(self) -> Row:
        from hpcvlm.ops.endpoints import status

        return status(self.name, self._ctx)

    def _look_for_address(self) -> Address:
        row = self._look()
        if row.endpoint is None:
            raise _not_ready(row)
        return row.endpoint

    def _reach(self, *, again: bool = False) -> tuple[Address, str]:
        """Address and key for a request; where one attempt has failed the next looks again."""
        if again:
            self._way.learn(None)
        address = self._way.find(self.name)
        return address, read_key(Path(address.key_file))

    def _glance(self, glance: Glance) -> None:
        from hpcvlm.ops.endpoints import describe
        from hpcvlm.watch.verdict import Unknown

        words = describe(glance.verdict)
        # Between two looks nobody need know that Slurm was not asked yet.
        if words != self._phase and not isinstance(glance.verdict, Unknown):
            self._phase = words
            kind = "ready" if words == "ready" else "phase"
            self._tell(EndpointEvent(kind, self.name, f"{self.name}: {words}"))

    def _tell(self, event: EndpointEvent) -> None:
        _log.info("%s", event.text)
        if self._on_event is not None:
            self._on_event(event)
        elif event.kind in ("expiring", "lease-failed") or (
            # While it starts, an error is on its way.
            event.kind == "ended" and self._way.is_known
        ):
            warnings.warn(event.text, EndpointWarning, stacklevel=2)


def _several(image: Picture | Sequence[Picture] | None) -> Sequence[Picture]:
    if image is None:
        return ()
    return image if isinstance(image, list | tuple) else (image,)


def _not_launched(model: str) -> HpcvlmError:
    return HpcvlmError(
        "endpoint-not-ready", f"the endpoint of {model} is not launched", "endpoint.start()"
    )


def _not_ready(row: Row, code: str = "endpoint-not-ready") -> HpcvlmError:
    """What is true instead, with the cause and the remedy where it failed."""
    from hpcvlm.ops.endpoints import describe, explain
    from hpcvlm.watch.verdict import Ended, Failed

    name, words = row.record.shown_name, describe(row.verdict)
    if isinstance(row.verdict, Failed):
        why = explain(row)
        known = why.id != "unknown"
        return HpcvlmError(
            "start-failed",
            f"{name} {words}" + (f": {why.cause}" if known else ""),
            why.remedy if known else f"hpcvlm logs {name}",
            (*why.lines, f"logs: {row.record.folder}"),
        )
    if isinstance(row.verdict, Ended):
        return HpcvlmError("endpoint-not-ready", f"{name} {words}", "launch it again")
    return HpcvlmError(code, f"{name} is not ready: {words}", f"hpcvlm wait {name}")
