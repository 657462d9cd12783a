"""llamacli devices: what llama.cpp was built for, what it sees, and what will be used."""

from collections.abc import Sequence
from typing import Any

from llamacli import machine as hardware, terminal, workers as others
from llamacli.commands import options
from llamacli.commands.printing import print_either


def devices(
    workers: options.Workers = None,
    as_json: options.AsJson = False,
) -> None:
    """Show processors and GPUs with their memory, and how to build for a GPU that isn't used.

    Of workers it tells how far they are, too: a round trip's time, and bytes a second.
    """
    hardware.load_library()
    fields = describe(hardware.find_devices(), hardware.this_machine())
    fields["workers"] += _meet(workers or "")
    print_either(as_json, fields, lines(fields))


def describe(devices: "Sequence[hardware.Device]", machine: "hardware.Machine") -> dict[str, Any]:
    """All that is told, for JSON."""
    features, resident = hardware.build_features(), hardware.free_memory().resident
    used = {device.name for device in hardware.use_devices(devices, "auto")}
    return {
        "versions": hardware.versions(),
        "built_for": features,
        "devices": [
            {
                "name": device.name,
                "description": device.description,
                "kind": device.kind,
                "memory_free": resident if device.role == "cpu" else device.free,
                "memory_total": device.total,
                "used": device.name in used or (device.role == "cpu" and not used),
            }
            for device in devices
        ],
        "workers": [],
        "threads": hardware.this_processor().cores,
        "unused": [
            {"found": what, "command": command}
            for what, command in hardware.unused_hardware(devices, machine)
        ],
    }


def _meet(listed: str) -> list[dict[str, Any]]:
    """Each worker's devices and link. Raises UsageError and UnreachableError."""
    met = []
    for address in others.parse_workers(listed):
        link = others.greet(address)
        try:
            latency, bandwidth = others.measure(link)
        finally:
            link.close()
        lent = [{"memory_free": one.free, "memory_total": one.total} for one in link.devices]
        met.append(
            {
                "address": str(address),
                "devices": lent,
                "latency_seconds": latency,
                "bytes_per_second": bandwidth,
            }
        )
    return met


def lines(fields: dict[str, Any]) -> str:
    """The same for people."""
    rows = [("device", "kind", "free", "memory", "", "")]
    for device in fields["devices"]:
        sizes = (_gib(device["memory_free"]), _gib(device["memory_total"]))
        used = "used" if device["used"] else ""
        rows.append((device["name"], device["kind"], *sizes, used, device["description"]))
    for worker in fields["workers"]:
        rate = worker["bytes_per_second"] / 1e6
        far = f"{worker['latency_seconds'] * 1e3:.2f} ms away, {rate:.0f} MB/s"
        for device in worker["devices"]:
            sizes = (_gib(device["memory_free"]), _gib(device["memory_total"]))
            rows.append((worker["address"], "worker", *sizes, "used", far))
    text = terminal.columns(rows, "llrrll")
    packages = ", ".join(f"{name} {version}" for name, version in fields["versions"].items())
    text += f"\n{packages}\n"
    for backend, features in fields["built_for"].items():
        named = [k if value == "1" else f"{k}={value}" for k, value in features.items()]
        text += terminal.printable(f"{backend} is built with {' '.join(named)}") + "\n"
    text += f"{fields['threads']} threads, unless --threads or `llamacli tune` say otherwise\n"
    for unused in fields["unused"]:
        text += f"\n{unused['found']}; to build it for that:\n  {unused['command']}\n"
    return text


def _gib(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.1f} GiB" if nbytes else "-"
