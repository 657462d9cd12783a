from .cores import Processor, physical_cores, this_processor, thread_counts
from .devices import (
    KINDS,
    Device,
    Machine,
    find_devices,
    this_machine,
    unused_hardware,
    use_devices,
)
from .memory import FreeMemory, free_memory
from .native import (
    build_features,
    deferred_signals,
    ggml_function,
    last_error,
    load_library,
    versions,
)

__all__ = [
    "KINDS",
    "Device",
    "FreeMemory",
    "Machine",
    "Processor",
    "build_features",
    "deferred_signals",
    "find_devices",
    "free_memory",
    "ggml_function",
    "last_error",
    "load_library",
    "physical_cores",
    "this_machine",
    "this_processor",
    "thread_counts",
    "unused_hardware",
    "use_devices",
    "versions",
]
