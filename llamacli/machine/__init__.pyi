from .devices import (
    Device as Device,
    Machine as Machine,
    device_memory as device_memory,
    find_devices as find_devices,
    this_machine as this_machine,
    unused_hardware as unused_hardware,
    use_devices as use_devices,
)
from .native import (
    build_features as build_features,
    ggml_function as ggml_function,
    load_library as load_library,
    logged_reason as logged_reason,
    versions as versions,
)
from .resources import (
    FreeMemory as FreeMemory,
    Processor as Processor,
    free_memory as free_memory,
    physical_cores as physical_cores,
    this_processor as this_processor,
    thread_counts as thread_counts,
    usable_processors as usable_processors,
)
