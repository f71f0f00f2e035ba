"""The smoke test itself: ask, judge, and tell each result as it comes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from hpcvlm.errors import HpcvlmError
from hpcvlm.probe import cases, judge
from hpcvlm.probe.asker import Asker, checked_address
from hpcvlm.probe.cases import Question
from hpcvlm.probe.explain import Failure, explain
from hpcvlm.probe.judge import Fetch
from hpcvlm.probe.model import CaseResult, Kind, ProbeReport, Target, Verdict
from hpcvlm.probe.own_image import OwnImage, read_own_image
from hpcvlm.probe.picture_server import PictureServer, address_towards, is_loopback
from hpcvlm.probe.replies import OK, Reply, model_ids, parse_completion, parse_json, parse_stream
from hpcvlm.system.clock import Clock, SystemClock

THIS_MACHINE = "127.0.0.1"
NOT_ASKED = Reply(None)
NO_VISION = Failure(
    Kind.NO_VISION, "this server has no vision: it takes text only", "serve a vision-language model"
)


def run_smoke_test(
    target: Target,
    *,
    image: str | None = None,
    require_naming: bool = True,
    seed: int | None = None,
    timeout_s: float = 120.0,
    max_tokens: int = 64,
    on_result: Callable[[CaseResult], None] | None = None,
    transport: httpx.BaseTransport | None = None,
    clock: Clock | None = None,
) -> ProbeReport:
    """Ask an endpoint everything that shows whether it answers and sees.

    Args:
        target: the endpoint.
        image: a picture of the user's own: an http address, which the engine fetches, or a file,
            which is sent as base64. Such a picture is not checked for what is in it.
        require_naming: fail when a model answers and does not name what was drawn.
        seed: draws the same pictures again; random when not given.
        timeout_s: longest wait for one answer, in seconds.
        max_tokens: longest answer, in tokens.
        on_result: called with each result as it comes.
        transport: stands in for the network in tests.
        clock: stands in for the time in tests.

    Returns:
        The report; whatever the endpoint does wrong is in it, not raised.

    Raises:
        HpcvlmError: the address or key cannot be used, or the user's picture cannot be read.
    """
    clock = clock or SystemClock()
    seed = secrets.randbits(32) if seed is None else seed
    own = None if image is None else read_own_image(image)
    started = clock.now()
    with Asker(target, timeout_s, transport) as asker:
        test = _SmokeTest(target, asker, seed, own, _Options(require_naming, max_tokens))
        results = []
        for result in test.results():
            results.append(result)
            if on_result is not None:
                on_result(result)
    return ProbeReport(
        url=checked_address(target.url),
        model=target.model,
        engine_version=test.engine_version,
        system_fingerprint=test.system_fingerprint,
        seed=seed,
        require_naming=require_naming,
        started=started,
        seconds=clock.now() - started,
        results=tuple(results),
    )


def discover_model(
    url: str,
    key: str | None,
    *,
    timeout_s: float = 10.0,
    transport: httpx.BaseTransport | None = None,
) -> str:
    """The first model id that an endpoint lists.

    Raises:
        HpcvlmError: the endpoint cannot be reached, refuses the key, or lists no model.
    """
    with Asker(Target(url=url, key=key, model=""), timeout_s, transport) as asker:
        reply = asker.get("/v1/models")
    listed = model_ids(reply.body) if reply.status == OK else None
    if listed:
        return listed[0]
    if listed is not None:
        raise HpcvlmError("model-unknown-at-endpoint", f"{url} lists no model")
    why = judge.NOT_AN_API if reply.status == OK else explain(reply)
    raise HpcvlmError("model-unknown-at-endpoint", f"{url}: {why.reason}", why.remedy)


@dataclass(frozen=True, slots=True)
class _Options:
    require_naming: bool
    max_tokens: int


class _SmokeTest:
    """One run over one endpoint; remembers what a later case needs from an earlier one."""

    def __init__(
        self, target: Target, asker: Asker, seed: int, own: OwnImage | None, options: _Options
    ) -> None:
        self.engine_version: str | None = None
        self.system_fingerprint: str | None = None
        self._target = target
        self._asker = asker
        self._seed = seed
        self._own = own
        self._options = options
        self._alone: dict[str, Reply] = {}
        self._ended: CaseResult | None = None
        self._blind = False
        self._base64_answered = False

    def results(self) -> Iterator[CaseResult]:
        """Run the cases in their order, and stop asking once nothing more can be learnt."""
        asked = {
            cases.MODELS: self._models,
            cases.LOCKED: self._locked,
            cases.TEXT: self._text,
            cases.IMAGE_BASE64: self._image_base64,
            cases.IMAGE_URL: self._image_url,
            cases.IMAGE_FILE: self._image_file,
            cases.TWO_IMAGES: self._two_images,
            cases.STREAMING: self._streaming,
            cases.IMAGE_LIMIT: self._image_limit,
        }
        for case in cases.CASES:
            result = self._unasked(case) or asked[case]()
            self._blind = self._blind or result.kind is Kind.NO_VISION
            if self._ended is None and judge.ends_the_test(result):
                self._ended = result
            yield result

    def _unasked(self, case: str) -> CaseResult | None:
        if self._ended is not None:
            return judge.skipped(case, f"not asked, as {self._ended.name} failed")
        if case not in cases.IMAGE_CASES:
            return None
        if self._target.vision is False and case != cases.STREAMING:
            return judge.skipped(case, "the model is said to take text only")
        return judge.failed_unasked(case, NO_VISION) if self._blind else None

    def _models(self) -> CaseResult:
        result = judge.judge_models(self._asker.get("/v1/models"), self._target.model)
        if result.verdict is Verdict.PASSED:
            version = (parse_json(self._asker.get("/version").body) or {}).get("version")
            self.engine_version = version if isinstance(version, str) else None
        return result

    def _locked(self) -> CaseResult:
        if self._target.key is None:
            return judge.skipped(cases.LOCKED, "no key was given: the endpoint takes everyone")
        return judge.judge_locked(self._asker.get("/v1/models", with_key=False))

    def _text(self) -> CaseResult:
        body = cases.text_body(self._target.model, self._options.max_tokens)
        return judge.judge_text(self._chat(body))

    def _image_base64(self) -> CaseResult:
        if self._own is not None and self._own.data_url is not None:
            question, url = cases.unknown_picture(), self._own.data_url
        else:
            picture, question = cases.one_picture(self._seed, cases.IMAGE_BASE64)
            url = picture.data_url()
        result, reply = self._ask_about(cases.IMAGE_BASE64, question, (url,))
        self._base64_answered = reply.status == OK
        return result

    def _image_url(self) -> CaseResult:
        if self._own is not None and self._own.url is not None:
            origin = str(httpx.URL(self._own.url).copy_with(raw_path=b"/")).rstrip("/")
            question = cases.unknown_picture()
            result, reply = self._ask_about(cases.IMAGE_URL, question, (self._own.url,))
            return judge.judge_url_picture(
                result, reply, Fetch(origin, None, self._base64_answered)
            )
        picture, question = cases.one_picture(self._seed, cases.IMAGE_URL)
        try:
            host = self._picture_host()
            server = PictureServer(picture.png, host)
        except OSError as error:
            why = f"this machine could not offer its picture: {error.strerror or error}"
            return judge.failed_unasked(cases.IMAGE_URL, Failure(Kind.LOCAL, why))
        with server.running():
            result, reply = self._ask_about(cases.IMAGE_URL, question, (server.url,))
            loopback = is_loopback(host) and not self._target.same_host
            fetch = Fetch(server.origin, server.fetched_from, self._base64_answered, loopback)
        return judge.policy_respected(judge.judge_url_picture(result, reply, fetch))

    def _picture_host(self) -> str:
        if self._target.same_host or self._target.socket is not None:
            return THIS_MACHINE
        return address_towards(httpx.URL(self._target.url).host)

    def _image_file(self) -> CaseResult:
        folder = self._target.media_folder
        if folder is None:
            return judge.skipped(
                cases.IMAGE_FILE, "no folder is known that the engine reads media from"
            )
        picture, question = cases.one_picture(self._seed, cases.IMAGE_FILE)
        try:
            with _file_in(folder, picture.png) as path:
                result, _ = self._ask_about(cases.IMAGE_FILE, question, (path.as_uri(),))
        except OSError as error:
            why = f"the test could not write into {folder}: {error.strerror or error}"
            return judge.failed_unasked(cases.IMAGE_FILE, Failure(Kind.LOCAL, why))
        return result

    def _two_images(self) -> CaseResult:
        limit = self._target.image_limit
        if limit is not None and limit < cases.PAIR:
            return judge.skipped(
                cases.TWO_IMAGES, f"the server is set to {limit} image(s) in one request"
            )
        pictures, question = cases.two_pictures(self._seed)
        urls = tuple(picture.data_url() for picture in pictures)
        result, _ = self._ask_about(cases.TWO_IMAGES, question, urls)
        return judge.judge_pair(result, limit)

    def _streaming(self) -> CaseResult:
        if self._target.vision is False:
            text = cases.text_body(self._target.model, self._options.max_tokens)
            return judge.judge_stream(cases.TEXT_ONLY, self._chat(cases.as_stream(text)), NOT_ASKED)
        picture, question = cases.one_picture(self._seed, cases.IMAGE_BASE64)
        body = self._picture_body(question, (picture.data_url(),))
        reply = self._chat(cases.as_stream(body))
        alone = self._without_images(question) if reply.status == OK else NOT_ASKED
        return judge.judge_stream(question, reply, alone)

    def _image_limit(self) -> CaseResult:
        limit = self._target.image_limit
        if limit is None:
            return judge.skipped(cases.IMAGE_LIMIT, "the server's image limit is not known")
        if limit >= cases.MOST_IMAGES_TRIED:
            return judge.skipped(
                cases.IMAGE_LIMIT, f"a limit of {limit} images is too high to be tried"
            )
        urls = cases.over_limit_urls(self._seed, limit)
        question = cases.unknown_picture()
        return judge.judge_limit(self._chat(self._picture_body(question, urls)), limit)

    def _ask_about(
        self, case: str, question: Question, urls: tuple[str, ...]
    ) -> tuple[CaseResult, Reply]:
        reply = self._chat(self._picture_body(question, urls))
        alone = self._without_images(question) if reply.status == OK else NOT_ASKED
        result = judge.judge_picture(
            case, question, reply, alone, require_naming=self._options.require_naming
        )
        return result, reply

    def _without_images(self, question: Question) -> Reply:
        """The same request without its images; asked once for each question."""
        if question.prompt not in self._alone:
            body = cases.picture_body(self._target.model, question.prompt, (), max_tokens=1)
            self._alone[question.prompt] = self._chat(body)
        return self._alone[question.prompt]

    def _picture_body(self, question: Question, urls: tuple[str, ...]) -> cases.Body:
        return cases.picture_body(
            self._target.model, question.prompt, urls, self._options.max_tokens
        )

    def _chat(self, body: cases.Body) -> Reply:
        reply = self._asker.chat(body)
        if self.system_fingerprint is None and reply.status == OK:
            said = parse_completion(reply.body) or parse_stream(reply.events).completion
            self.system_fingerprint = said.system_fingerprint
        return reply


@contextmanager
def _file_in(folder: Path, png: bytes) -> Iterator[Path]:
    """A file of a name of its own, readable for an engine of another user, removed at the end."""
    path = folder.absolute() / f"hpcvlm-probe-{secrets.token_hex(8)}.png"
    try:
        with path.open("xb") as stream:
            stream.write(png)
            stream.flush()
            os.fsync(stream.fileno())
        path.chmod(0o644)
        yield path
    finally:
        path.unlink(missing_ok=True)
