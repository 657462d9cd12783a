from .addresses import PORT, TIMEOUT, Address, parse_split, parse_workers
from .connected import Workers
from .greeting import Link, greet, measure
from .hosting import Lending, address_of, host
from .lend import described, end_with_stdin, lent_devices
from .ssh import host_by_ssh

__all__ = [
    "PORT",
    "TIMEOUT",
    "Address",
    "Lending",
    "Link",
    "Workers",
    "address_of",
    "described",
    "end_with_stdin",
    "greet",
    "host",
    "host_by_ssh",
    "lent_devices",
    "measure",
    "parse_split",
    "parse_workers",
]
