"""llamacli chat: a conversation on the terminal."""

import sys

from llamacli.commands import options
from llamacli.commands.run import piped_text
from llamacli.commands.session import notice, open_engine, show_answer


def chat(
    model: options.Model = None,
    system: options.System = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repeat_penalty: options.RepeatPenalty = None,
    seed: options.Seed = None,
    context: options.Context = None,
    stop: options.Stop = None,
    threads: options.Threads = None,
    device: options.Device = None,
    gpu_layers: options.GpuLayers = None,
    kv_type: options.KVType = None,
    flash_attention: options.FlashAttention = None,
    no_tune: options.NoTune = False,
    overcommit: options.Overcommit = False,
) -> None:
    """Talk to a model; Ctrl-C ends an answer, Ctrl-D or /exit the chat."""
    from llamacli.asked import Asked
    from llamacli.chat import ChatSession
    from llamacli.errors import LlamacliError
    from llamacli.sampling import SamplingSettings

    asked = Asked(
        context=context,
        threads=threads,
        device=device,
        gpu_layers=gpu_layers,
        flash_attention=flash_attention,
        kv_type=kv_type,
        tune=not no_tune,
        overcommit=overcommit,
        profile="long",
    )
    with open_engine(model, asked) as engine:
        sampling = SamplingSettings.from_metadata(
            engine.file.metadata,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
        )
        session = ChatSession(engine, sampling, max_tokens=max_tokens, stop=tuple(stop or ()))
        if system is not None:
            session.messages.append({"role": "system", "content": system})
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            show_answer(session.send(piped_text()), sys.stdout)
            return
        notice(f"{engine.name}, {engine.quantization}, {engine.context_size} tokens of context")
        while (text := _ask()) is not None:
            if not text.strip():
                continue
            try:
                show_answer(session.send(text), sys.stdout)
            except KeyboardInterrupt:
                print(file=sys.stderr)
            except LlamacliError as error:
                notice(str(error))


def _ask() -> str | None:
    """A line from the terminal; None at its end."""
    from prompt_toolkit import prompt

    try:
        text = prompt(">>> ")
    except (EOFError, KeyboardInterrupt):
        return None
    return None if text.strip() == "/exit" else text
