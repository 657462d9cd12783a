from .cores import (
    Processor as Processor,
    physical_cores as physical_cores,
    this_processor as this_processor,
    thread_counts as thread_counts,
)
from .devices import (
    Device as Device,
    Machine as Machine,
    device_memory as device_memory,
    find_devices as find_devices,
    this_machine as this_machine,
    unused_hardware as unused_hardware,
    use_devices as use_devices,
)
from .memory import FreeMemory as FreeMemory, free_memory as free_memory
from .native import (
    build_features as build_features,
    ggml_function as ggml_function,
    load_library as load_library,
    logged_reason as logged_reason,
    versions as versions,
)
