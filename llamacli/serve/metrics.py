"""What is counted, in Prometheus' form; the meanings are llama-server's."""

from functools import partial
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llamacli.batch import Running, Step

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Written by the engine's thread and the loop; each value is set by one of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace="llamacli", registry=self.registry)
        gauge = partial(Gauge, namespace="llamacli", registry=self.registry)
        histogram = partial(Histogram, namespace="llamacli", registry=self.registry,
                            buckets=SECONDS)  # fmt: skip
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts that were evaluated.")
        self.cached_tokens = counter("prompt_tokens_cached", "Tokens of prompts in the cache.")
        self.answer_tokens = counter("tokens_predicted", "Tokens of answers.")
        self.drafted_tokens = counter("drafted_tokens", "Tokens that were drafted and checked.")
        self.accepted_tokens = counter("drafted_tokens_accepted", "Of them, those of answers.")
        self.decodes = counter("n_decode", "Calls of llama_decode.")
        self.prompt_seconds = counter("prompt_seconds", "Seconds of steps that read prompts.")
        self.answer_seconds = counter("tokens_predicted_seconds", "Answers' seconds, side by side.")
        self.sequences = gauge("n_busy_slots_per_decode", "Sequences in the average step.")
        self.steps = self.busy = 0
        self.processing = gauge("requests_processing", "Answers that run.")
        self.deferred = gauge("requests_deferred", "Answers that wait for a sequence.")
        self.first = histogram("time_to_first_token_seconds", "From request to first token.")
        self.between = histogram("time_between_tokens_seconds", "Between tokens of one answer.")
        self.requests = counter("http_requests", "Requests by status.", ["status"])

    def step(self, step: Step, sequences: int, seconds: float) -> None:
        self.decodes.inc(step.evaluations)
        self.steps, self.busy = self.steps + 1, self.busy + sequences
        self.answer_tokens.inc(len(step.grown))
        if step.read:
            self.prompt_tokens.inc(step.read)
            self.prompt_seconds.inc(seconds)

    def token(self, now: float, asked: float, last: float) -> None:
        if last:
            self.between.observe(now - last)
        else:
            self.first.observe(now - asked)

    def ended(self, running: Running) -> None:
        if running.prefilled is not None:
            self.answer_seconds.inc(perf_counter() - running.prefilled)
        if running.drafts is not None:
            self.drafted_tokens.inc(running.drafts.drafted.tokens)
            self.accepted_tokens.inc(running.drafts.drafted.accepted)

    def text(self) -> bytes:
        self.sequences.set(self.busy / max(self.steps, 1))
        return generate_latest(self.registry)
