"""What `llamacli serve` was told."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llamacli.batch import BatchEngine
from llamacli.engine import AdapterChoice


@dataclass(frozen=True)
class Options:
    """models are the chosen ones by name; none is the store. adapters go with one of them."""

    models: dict[str, Path]
    open: Callable[[Path], BatchEngine]
    host: str = "127.0.0.1"
    port: int = 8080
    socket: Path | None = None
    parallel: int = 4
    queue: int = 64  # answers that wait for one of parallel sequences
    slice: int | None = None
    keys: tuple[bytes, ...] = ()
    origins: tuple[str, ...] = ()
    keep_alive: float | None = 600.0  # seconds
    cache: bool = False  # what is in a KV cache goes to the disk, and comes back from there
    tool_threshold: float | None = None  # where a request gives none
    adapters: tuple[AdapterChoice, ...] = ()
    timeout: float = 3600.0  # seconds that a request may take
    log_prompts: bool = False
    quiet: bool = False
