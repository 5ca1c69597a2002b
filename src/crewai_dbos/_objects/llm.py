"""`DBOSLLM`: a copy of a crewAI LLM whose requests are recorded.

The copy's class is a subclass of the original's, so it passes every ``isinstance`` and keeps stop
words, native tool support, streaming and usage; only `call` and `acall` go through the journal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from crewai import LLM
from crewai.llms.base_llm import BaseLLM
from pydantic import SecretStr

from crewai_dbos._classes import kept_with, overridden, overrides, with_its_own
from crewai_dbos._crewai_seam.llm import (
    ask_through,
    asked_through,
    counting,
    counts_tokens_remotely,
    forget_shared_state,
    shallow_copy,
    without_rate_limit_retry,
)
from crewai_dbos._journal import joining, run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.config import StepConfig, for_llm
from crewai_dbos._journal.scope import Scope
from crewai_dbos._objects.clients import (
    build_response_models,
    one_layer_of_retries,
    single_attempt_builders,
)
from crewai_dbos._objects.llm_request import (
    Binding,
    as_call,
    collect,
    described,
    note_usage,
    observing,
    restoring,
)
from crewai_dbos._objects.options import check_step_configs
from crewai_dbos._secrets import finding, known
from crewai_dbos._secrets.given import NONE, Given, as_given
from crewai_dbos._stored import names

_BINDING = "_crewai_dbos_binding"
_COPIED = "_crewai_dbos_copied"


if TYPE_CHECKING:
    _Base = BaseLLM
else:
    _Base = object


@overrides(BaseLLM)
class DBOSLLM(_Base):
    """Makes every request of a crewAI LLM a DBOS step.

    ``DBOSLLM(orig_llm, step_config=...)`` returns a copy of `orig_llm`, an instance of its class
    and of `DBOSLLM`. Inside a DBOS workflow each request is recorded; a request that was recorded
    before a crash is answered from the record, token usage included. Outside DBOS the copy is an
    ordinary LLM.

    Args:
        orig_llm: A crewAI LLM, or a model name as `crewai.LLM` takes it.
        step_config: Retries and limits. By default five attempts after rate limits, timeouts,
            lost connections and 5xx, with backoff, waiting as long as ``Retry-After`` says. The
            retries of crewAI and of the provider's SDK are off inside a workflow, so this is the
            only layer.
        role: Names the requests in the journal.
        secrets: Texts, as strings or `SecretStr`, that must not be stored in errors or logged. The
            keys of the LLM are known without that.

    Raises:
        DefinitionError: One of `secrets` has fewer than four characters.

    Example::

        from crewai import LLM
        from crewai_dbos import DBOSLLM, StepConfig
        from dbos import DBOS

        llm = DBOSLLM(LLM(model="gpt-4o-mini"), step_config=StepConfig(timeout_seconds=60))

        @DBOS.workflow()
        def sort(ticket: str) -> str:
            return str(llm.call(f"Is this a complaint? {ticket}"))

        sort("My parcel came late.")
    """

    def __new__(
        cls,
        orig_llm: BaseLLM | str | None = None,
        step_config: StepConfig | None = None,
        *,
        role: str = names.LLM,
        secrets: Iterable[str | SecretStr] = (),
        **_: Any,
    ) -> Any:
        if cls is DBOSLLM:
            llm = LLM(model=orig_llm) if isinstance(orig_llm, str) else orig_llm
            if not isinstance(llm, BaseLLM):
                raise TypeError(
                    f"DBOSLLM wraps a crewai LLM or a model name, not {known.shown(orig_llm)}"
                )
            check_step_configs(step_config=step_config)
            given = as_given(secrets)
            known.tell(finding.secrets_in([llm, given]))
            return durable_llm(llm, role=role, config=step_config, given=given)
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # `DBOSLLM(llm)` returns a finished copy, which Python then "initialises" once more.
        if _BINDING not in self.__dict__:
            super().__init__(*args, **kwargs)

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """As `BaseLLM.call`; recorded when it happens inside a DBOS workflow."""
        original = super().call  # type: ignore[safe-super]
        binding: Binding = self.__dict__[_BINDING]
        scope = run_scope.for_call(binding.scope, f"LLM request of {described(self)}")
        if scope is None:
            return original(messages, *args, **kwargs)

        def request() -> Any:
            with without_rate_limit_retry(), observing():
                try:
                    return original(messages, *args, **kwargs)
                except Exception:
                    scope.look_for_secrets(self)
                    raise
                finally:
                    collect(self, collected)

        collected: dict[str, Any] = {}
        call = as_call(self, binding, scope, collected, messages, args, kwargs)
        with joining.unwrapping_signals(scope):
            return scope.run(call, request)

    async def acall(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """As `BaseLLM.acall`; recorded when it happens inside a DBOS workflow."""
        original = super().acall
        binding: Binding = self.__dict__[_BINDING]
        scope = run_scope.for_call(binding.scope, f"LLM request of {described(self)}")
        if scope is None:
            return await original(messages, *args, **kwargs)

        async def request() -> Any:
            with without_rate_limit_retry(), observing():
                try:
                    return await original(messages, *args, **kwargs)
                except Exception:
                    scope.look_for_secrets(self)
                    raise
                finally:
                    collect(self, collected)

        collected: dict[str, Any] = {}
        call = as_call(self, binding, scope, collected, messages, args, kwargs)
        with joining.unwrapping_signals(scope):
            return await scope.arun(call, request)

    def get_input_tokens_count(self, *args: Any, **kwargs: Any) -> int:
        """As the original's; recorded, because some providers ask their server."""
        original = super().get_input_tokens_count

        def count() -> int:
            return int(original(*args, **kwargs))

        if not counts_tokens_remotely(self, type(self).__bases__[-1]):
            return count()
        return run_scope.record(lambda: Call(names.TOKEN_COUNT, kind="tokens"), count)

    def summarize_messages(self, *args: Any, **kwargs: Any) -> None:
        """As the original's, which may ask for several summaries at once."""
        original = super().summarize_messages
        scope = run_scope.enclosing()
        if scope is None:
            original(*args, **kwargs)
            return
        with scope.child(names.SUMMARY, sequential=False).entered():
            original(*args, **kwargs)

    def _track_token_usage_internal(self, usage_data: dict[str, Any]) -> None:
        note_usage(usage_data)
        # Several agents of a crew may count on one LLM, on threads.
        with counting:
            super()._track_token_usage_internal(usage_data)


def durable_llm(
    llm: BaseLLM,
    *,
    role: str,
    config: StepConfig | None,
    scope: Scope | None = None,
    by_content: bool = False,
    given: Given = NONE,
) -> BaseLLM:
    """A fresh durable copy of `llm`, with no usage and no conversation state of the original.

    Args:
        llm: Any crewAI LLM, durable or not.
        role: Names its requests in the journal.
        config: Its retries; None for the default, or those it already has.
        scope: The run it belongs to. A request made where that run can't be seen is an error.
        by_content: Whether requests are named by what they ask, not counted.
        given: Texts that the user has called secrets, beside those of an LLM that is durable.
    """
    bound: Binding | None = llm.__dict__.get(_BINDING)
    step = bound.config if bound is not None and config is None else for_llm(config)
    durable = shallow_copy(llm)
    forget_shared_state(durable)
    if bound is None:
        durable.__class__ = llm_class(with_its_own(durable, DBOSLLM))
    if bound is not None:
        given = Given((*bound.given, *given))
    durable.__dict__[_BINDING] = Binding(role, step, scope, by_content, given)
    one_layer_of_retries(durable)
    build_response_models()
    sender = asked_through(durable)
    if sender is not durable:
        # Inside a recorded request it makes its own without recording it again.
        ask_through(durable, durable_llm(sender, role=role, config=config))
    if scope is not None:
        scope.look_for_secrets(llm)
        scope.restore_usage(role, restoring(durable))
    durable.__dict__[_COPIED] = {n: v for n, v in vars(llm).items() if vars(durable).get(n) is v}
    return durable


def follow(durable: BaseLLM, llm: BaseLLM) -> None:
    """Give `durable`, a copy of `llm`, what was set on that since it was made."""
    copied: dict[str, Any] = durable.__dict__[_COPIED]
    for name, value in vars(llm).items():
        is_copied = name in copied or name not in durable.__dict__
        if is_copied and copied.get(name, follow) is not value:
            copied[name] = durable.__dict__[name] = value


def binding_of(llm: Any) -> Binding | None:
    """How the requests of a durable LLM are recorded; None of another."""
    return llm.__dict__[_BINDING] if isinstance(llm, DBOSLLM) else None


def llm_class(cls: type[BaseLLM]) -> type[BaseLLM]:
    """That of durable LLMs, for those of class `cls`."""
    make = lambda: overridden(DBOSLLM, cls, single_attempt_builders(cls))  # noqa: E731
    return kept_with(cls, DBOSLLM, make)
