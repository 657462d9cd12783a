from .addresses import (
    TIMEOUT as TIMEOUT,
    Address as Address,
    parse_split as parse_split,
    parse_workers as parse_workers,
)
from .connected import Workers as Workers
from .greeting import greet as greet, measure as measure
from .hosting import (
    address_of as address_of,
    host as host,
    host_by_ssh as host_by_ssh,
)
from .lend import (
    described as described,
    end_with_stdin as end_with_stdin,
    lent_devices as lent_devices,
)
